"""Stage 7: search the best transcripts of a set of cuts and write them, with n-best lists, to hyp.jsonl."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import torch
from tqdm import tqdm

from residualformer.data.features import read_feature_config
from residualformer.decode.search import decode_settings, encode, search, search_name, times_s
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.schema import DecodeConfig
from residualformer.train.checkpoint import load_model


@dataclass
class Outcome:
    """What a decoding run made: one record per utterance, and the utterances that could not be read."""

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def main() -> None:
    args = parse_args()
    bundle = load_model(args.model)
    settings = decode_settings(bundle.config, args.set)
    cuts = read_cuts(args.cuts, bundle.config.features)
    cuts = cuts[: args.limit] if args.limit else cuts
    out = args.out or run_folder(args.model) / folder_name(args, settings)
    started = time.monotonic()
    outcome = decode(bundle, settings, cuts, args.streaming)
    wall_s = time.monotonic() - started
    order = {cut.id: i for i, cut in enumerate(cuts)}
    outcome.records.sort(key=lambda record: order[record["id"]])
    summary = {
        "cuts": str(args.cuts),
        "streaming": args.streaming,
        "settings": asdict(settings),
        "utterances": len(outcome.records),
        "skipped": outcome.skipped,
        "audio_s": round(sum(record["duration"] for record in outcome.records), 2),
        "wall_s": round(wall_s, 2),
        "threads": torch.get_num_threads(),
    }
    summary["rtf"] = round(wall_s / summary["audio_s"], 4) if summary["audio_s"] else None
    write_json(out / "decode.json", summary)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in outcome.records)
    write_text(out / "hyp.jsonl", "".join(lines))
    print(
        f"decode: {len(outcome.records)} utterances, {summary['audio_s']:.0f} s of audio in {wall_s:.1f} s "
        f"(real-time factor {summary['rtf']}), {len(outcome.skipped)} skipped: {out / 'hyp.jsonl'}"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="RUN_OR_MODEL", help="a run folder, or its model.pt")
    parser.add_argument("--cuts", type=Path, required=True, help="cuts with features, cuts_<split>.jsonl.gz (stage 2)")
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/decode_<split>_<search>)")
    parser.add_argument("--set", action="append", default=[], metavar="decode.KEY=VALUE", help="override a setting")
    parser.add_argument("--streaming", action="store_true", help="encode chunk by chunk, not by the masked full pass")
    parser.add_argument("--limit", type=int, help="decode only the first so many utterances")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: give 1 or more")
    return args


def run_folder(model: Path) -> Path:
    return model if model.is_dir() else model.parent


def folder_name(args: argparse.Namespace, settings: DecodeConfig) -> str:
    """decode_<split>_<search>, so that runs which are not the whole split, or not the usual way, have their own."""
    split = args.cuts.name.split(".")[0].removeprefix("cuts_")
    suffix = "_streaming" if args.streaming else ""
    return f"decode_{split}_{search_name(settings)}{suffix}" + (f"_first{args.limit}" if args.limit else "")


def read_cuts(path: Path, features) -> list[lhotse.cut.Cut]:
    """Cuts whose features exist and are what the model was trained on; UserError otherwise."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run stage 2 first, or give another file with --cuts.")
    try:
        cuts = list(lhotse.load_manifest(path))
    except Exception as error:  # Lhotse raises whatever the broken line led to
        raise UserError(f"{path} is not a manifest of cuts ({error}): run stage 2 again.") from error
    if not cuts:
        raise UserError(f"{path} holds no utterance: run stages 1 and 2 again.")
    bare = [cut.id for cut in cuts if not cut.has_features]
    if bare:
        raise UserError(f"{path}: {len(bare)} cuts have no features, the first is {bare[0]}: run stage 2 first.")
    found = read_feature_config(path.parent)
    if asdict(found) != asdict(features):
        raise UserError(
            f"{path.parent}/features.json says {asdict(found)}, the model was trained on {asdict(features)}: "
            "compute the features with the model's options (stage 2)."
        )
    return cuts


def decode(bundle, settings: DecodeConfig, cuts: list, streaming: bool) -> Outcome:
    """Decode batch by batch, the longest first."""
    outcome = Outcome()
    with tqdm(total=len(cuts), desc="decode", unit="utt") as progress:
        for batch in batches(cuts, settings.max_batch_s):
            readable = [(cut, x) for cut in batch if (x := load_features(bundle, cut, outcome)) is not None]
            if readable:
                outcome.records.extend(decode_batch(bundle, settings, readable, streaming))
            progress.update(len(batch))
    return outcome


def batches(cuts: list, max_batch_s: float) -> list[list]:
    """Groups of cuts of like duration, at most `max_batch_s` with the padding, or a single cut."""
    groups: list[list] = []
    for cut in sorted(cuts, key=lambda cut: -cut.duration):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].duration <= max_batch_s:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    return groups


def load_features(bundle, cut, outcome: Outcome) -> np.ndarray | None:
    """Features (T, F) of one cut; None, named and noted, when they cannot be read."""
    try:
        features = cut.load_features()
        expected = bundle.config.features.num_mel_bins
        if features.ndim != 2 or features.shape[1] != expected:
            raise ValueError(f"shape {features.shape} instead of (frames, {expected})")
        if not np.isfinite(features).all():
            raise ValueError("values that are not finite")
        return features
    except Exception as error:  # the storage back-ends raise errors of many libraries
        reason = f"{type(error).__name__}: {error}"
        outcome.skipped.append({"id": cut.id, "ref": reference(bundle, cut), "reason": reason})
        tqdm.write(f"decode: skipped {cut.id}, its features cannot be read ({reason})")
        return None


def reference(bundle, cut) -> str:
    """What the model should have written: the transcript, or its translation."""
    target = bundle.config.tokens.target
    supervision = cut.supervisions[0]
    text = supervision.text if target == "text" else (supervision.custom or {}).get(target)
    if text is None:
        raise UserError(f"cut {cut.id} has no '{target}', which the model's tokens.target asks for: run stage 1 again.")
    return text


def decode_batch(bundle, settings: DecodeConfig, batch: list, streaming: bool) -> list[dict[str, Any]]:
    """Records of one batch of (cut, features (T, F))."""
    lengths = torch.tensor([len(features) for _, features in batch])
    tensors = [torch.from_numpy(features) for _, features in batch]
    features = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)  # (N, T, F)
    device = next(bundle.model.parameters()).device
    encoded, lengths = encode(bundle.model, features.to(device), lengths.to(device), streaming)
    nbests = search(bundle.model, encoded, lengths, settings)
    return [record(bundle, cut, nbest) for (cut, _), nbest in zip(batch, nbests, strict=True)]


def record(bundle, cut, nbest: list) -> dict[str, Any]:
    """One line of hyp.jsonl: the best hypothesis on top, all of them under `nbest`; times in seconds."""
    tokenizer = bundle.tokenizer
    entries = [
        {
            "hyp": tokenizer.decode(hypothesis.tokens),
            "score": round(hypothesis.score, 4),
            "tokens": [tokenizer.pieces[token] for token in hypothesis.tokens],
            "times": times_s(hypothesis),
        }
        for hypothesis in nbest
    ]
    return {"id": cut.id, "ref": reference(bundle, cut), **entries[0], "duration": cut.duration, "nbest": entries}


if __name__ == "__main__":
    run_main(main)
