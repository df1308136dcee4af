"""Stage 7: decode a set of cuts and write the transcripts, with n-best lists, to hyp.jsonl.

Each record also holds the transducer loss of its reference. The real-time factor is that of one process and leaves the
time of that loss out. Interrupted, the same command goes on. Several machines share the work if each does a part, such
as --job 2/8; after them, the command without --job does what is left and writes hyp.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

import residualformer
from residualformer.config.schema import DecodeConfig
from residualformer.data.splits import split_of
from residualformer.decode.corpus import (
    Outcome,
    batches,
    check_references,
    decode_cuts,
    read_cuts_with_features,
)
from residualformer.decode.jobs import BatchDecoder, decoding_processes, loaded
from residualformer.decode.settings import decode_settings, search_name, settings_for
from residualformer.errors import run_main
from residualformer.files import write_json, write_text
from residualformer.journal import Journal, share
from residualformer.model.checkpoint import Bundle, fingerprint
from residualformer.model.device import add_device_option
from residualformer.provenance import provenance
from residualformer.workflow.options import positive_whole_number


def main() -> None:
    args = parse_args()
    bundle = loaded(args.model, args.device)
    settings = settings_for(decode_settings(bundle.config, args.set, args.config), split_of(args.cuts))
    cuts = read_cuts_with_features(args.cuts, bundle.config.features)[: args.limit]
    run = args.model if args.model.is_dir() else args.model.parent
    out = args.out or run / folder_name(args, settings)
    decoder = BatchDecoder(args.model, args.device, settings, args.streaming)
    journal = Journal(out, work(args, bundle, settings), args.job)
    started = time.monotonic()
    with decoding_processes(args.jobs) as map_:
        if args.job:
            check_references(cuts, bundle.config.tokens.target)
            finished = sum(1 for _ in journal.run(map_, decoder, batches(cuts, settings.max_batch_s)))
            print(f"decode: job {args.job} has decoded {finished} batches; they are kept in {out}")
            return

        def decode_all(groups: list[list[Cut]]) -> Iterator[Outcome]:
            return (Outcome(**result) for result in journal.run(map_, decoder, groups))

        outcome = decode_cuts(bundle, settings, cuts, args.streaming, decode_all)
    wall_s = time.monotonic() - started
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
        "jobs": args.jobs,
        "wall_s": round(wall_s, 2),
        "rtf": round(outcome.search_s / max(audio_s, 1e-9), 4),
        **provenance(),
    }
    write_json(out / "decode.json", summary)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in outcome.records)
    write_text(out / "hyp.jsonl", "".join(lines))
    journal.remove()
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
    parser.add_argument("--jobs", type=positive_whole_number, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--job", type=share, metavar="I/N", help="do only the part of job I of N")
    add_device_option(parser)
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit}: give 1 or more")
    return args


def work(args: argparse.Namespace, bundle: Bundle, settings: DecodeConfig) -> dict[str, Any]:
    """Return all that decides what is decoded, and with what result."""
    return {
        "cuts": hashlib.sha256(args.cuts.read_bytes()).hexdigest(),
        "limit": args.limit,
        "weights": fingerprint(bundle.model.state_dict()),
        "settings": asdict(settings),
        "streaming": args.streaming,
        "device": bundle.device.type,
        "version": residualformer.__version__,
    }


def folder_name(args: argparse.Namespace, settings: DecodeConfig) -> str:
    """Return decode_<split>_<search>, with a suffix for decoding chunk by chunk and for a part of the split."""
    streaming = "_streaming" if args.streaming else ""
    part = f"_first{args.limit}" if args.limit else ""
    return f"decode_{split_of(args.cuts)}_{search_name(settings)}{streaming}{part}"


if __name__ == "__main__":
    run_main(main)
