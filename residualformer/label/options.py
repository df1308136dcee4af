"""The options of programs that label speech, and what they do; importing them takes no time."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from residualformer.errors import UserError
from residualformer.label.recognizers import ALLOWED, make_recognizer, recognizer_words
from residualformer.workflow.options import real_number

MOST = 2  # recognizers


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add `--recognizer`, once or twice, and `--max-wer`."""
    add = parser.add_argument
    add(
        "--recognizer",
        type=recognizer_words,
        action="append",
        metavar="WHAT",
        help=f"{ALLOWED}; twice to keep only what both agree on, the better one, whose text is kept, first",
    )
    add(
        "--max-wer",
        type=real_number,
        metavar="PERCENT",
        help="of the first text's words by which the second may differ (0: texts must be equal)",
    )


def check_label_options(args: argparse.Namespace) -> None:
    """Raise UserError unless there are one or two recognizers, and two where a difference is allowed."""
    given = args.recognizer or []
    if not 1 <= len(given) <= MOST:
        raise UserError(f"--recognizer is given {len(given)} times; give one or two: {ALLOWED}.")
    if args.max_wer is not None and len(given) < MOST:
        raise UserError("--max-wer says how far two recognizers may differ: give --recognizer twice.")


def label_folder(
    args: argparse.Namespace,
    folder: Path,
    out: Path,
    others: Collection[Path] = (),
    limits: tuple[float, float] = (0.2, 30.0),
) -> None:
    """Label the recordings in a folder by the options `args`, which `check_label_options` accepts; see `labels.label`.

    Args:
        others: recordings that have a text already.
        limits: shortest and longest recording, in seconds.
    """
    from residualformer.label.hearing import Limits  # they import torch
    from residualformer.label.labels import label, recordings

    recognizers = [make_recognizer(words) for words in args.recognizer]
    label(recordings(folder, others), recognizers, out, Limits(*limits), args.max_wer or 0.0, args.jobs)
