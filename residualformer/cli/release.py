"""`residualformer release`: a trained model as a file to pass on, with matrices in half precision."""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.constants import MODEL_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", type=Path, metavar="RUN", help=f"the trained model: run folder or {MODEL_FILE}")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="file to write")


def run(args: argparse.Namespace) -> None:
    """Write the file; print one line."""
    from residualformer.model.checkpoint import read_run, release_model  # imports torch

    model = read_run(args.model)
    mark = release_model(args.out, model)
    before, after = (file.stat().st_size / 1e6 for file in (model.file, args.out))
    print(f"{args.out}: {after:.1f} MB, where {model.file} has {before:.1f} MB; its fingerprint is {mark}")
