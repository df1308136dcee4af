"""`residualformer adapter`: the difference of an adapted model and its base as a small file, or both as one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.constants import MODEL_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    model = f"run folder or {MODEL_FILE}"
    parser.add_argument("base", type=Path, metavar="BASE", help=f"the model that the adaptation started from: {model}")
    parser.add_argument(
        "other",
        type=Path,
        metavar="ADAPTED",
        help=f"the adapted model: {model}; with --merge an adapter file",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--merge", action="store_true", help=f"write BASE with an adapter as one {MODEL_FILE}, to decode or export"
    )


def run(args: argparse.Namespace) -> None:
    """Write an adapter, or with `--merge` an adapted model; print one line."""
    from residualformer.model.adapter import apply_adapter, write_adapter  # imports torch
    from residualformer.model.checkpoint import read_run, save_model

    base = read_run(args.base)
    if args.merge:
        adapted = apply_adapter(base, args.other)
        save_model(args.out, adapted.weights, adapted.config, adapted.tokenizer, adapted.info)
        print(f"{args.out}: {args.base} with the adapter {args.other}")
        return
    own = write_adapter(args.out, base, read_run(args.other))
    numbers, size = sum(tensor.numel() for tensor in own.values()), args.out.stat().st_size / 1000
    print(
        f"{args.out}: {len(own)} of {len(base.weights)} tensors differ, {numbers:,} numbers, {size:.0f} kB beside "
        f"{base.file.stat().st_size / 1000:.0f} kB of the base"
    )
