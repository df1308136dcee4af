"""Stage 7: decode a set of cuts and write the transcripts, with n-best lists, to hyp.jsonl.

Each record also holds the transducer loss of its reference; the real-time factor leaves the time of that out.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from residualformer.config.schema import DecodeConfig
from residualformer.data.splits import split_of
from residualformer.decode.corpus import decode_cuts, read_cuts_with_features
from residualformer.decode.settings import decode_settings, search_name, settings_for
from residualformer.errors import run_main
from residualformer.files import write_json, write_text
from residualformer.model.checkpoint import load_model
from residualformer.model.device import add_device_option, find_device
from residualformer.provenance import provenance


def main() -> None:
    args = parse_args()
    bundle = load_model(args.model, find_device(args.device))
    settings = settings_for(decode_settings(bundle.config, args.set, args.config), split_of(args.cuts))
    cuts = read_cuts_with_features(args.cuts, bundle.config.features)[: args.limit]
    run = args.model if args.model.is_dir() else args.model.parent
    out = args.out or run / folder_name(args, settings)
    started = time.monotonic()
    outcome = decode_cuts(bundle, settings, cuts, args.streaming)
    wall_s = time.monotonic() - started - outcome.loss_s
    audio_s = sum(record["duration"] for record in outcome.records)
    summary = {
        "cuts": str(args.cuts),
        "target": bundle.config.tokens.target,
        "search": search_name(settings),
        "streaming": args.streaming,
        "device": bundle.device.type,
        "settings": asdict(settings),
        "utterances": len(outcome.records),
        "skipped": outcome.skipped,
        "audio_s": round(audio_s, 2),
        "wall_s": round(wall_s, 2),
        "rtf": round(wall_s / max(audio_s, 1e-9), 4),
        **provenance(),
    }
    write_json(out / "decode.json", summary)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in outcome.records)
    write_text(out / "hyp.jsonl", "".join(lines))
    print(
        f"decode: {len(outcome.records)} utterances, {audio_s:.0f} s of audio in {wall_s:.1f} s "
        f"(real-time factor {summary['rtf']}), {len(outcome.skipped)} skipped -> {out / 'hyp.jsonl'}"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=Path, metavar="RUN_OR_MODEL", help="a run folder, or its model.safetensors")
    parser.add_argument("--cuts", type=Path, required=True, help="cuts with features, cuts_<split>.jsonl.gz (stage 2)")
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/decode_<split>_<search>)")
    parser.add_argument("--config", type=Path, help="experiment whose section decode to take (default: the model's)")
    parser.add_argument("--set", action="append", default=[], metavar="decode.KEY=VALUE", help="override a setting")
    parser.add_argument("--streaming", action="store_true", help="encode chunk by chunk, not by the masked full pass")
    parser.add_argument("--limit", type=int, help="decode only the first so many utterances")
    add_device_option(parser)
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: give 1 or more")
    return args


def folder_name(args: argparse.Namespace, settings: DecodeConfig) -> str:
    """Return decode_<split>_<search>, with a suffix for decoding chunk by chunk and for a part of the split."""
    streaming = "_streaming" if args.streaming else ""
    part = f"_first{args.limit}" if args.limit else ""
    return f"decode_{split_of(args.cuts)}_{search_name(settings)}{streaming}{part}"


if __name__ == "__main__":
    run_main(main)
