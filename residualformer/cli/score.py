"""`residualformer score`: error rates of a trained or an exported model on recordings with transcripts."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from residualformer.context.options import add_context_options, context_of
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines
from residualformer.library.arguments import add_load_options, load_as_asked

HEADER = ["path", "text"]
NAMES = {"wer": "WER", "cer": "CER", "bleu": "BLEU", "chrf": "chrF"}


class Spoken(NamedTuple):
    """A recording and what is said in it."""

    path: Path
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("table", type=Path, metavar="TSV", help="path and transcript, separated by a tab, one recording a line")
    add("--json", action="store_true", help="print a JSON object with all counts")
    add_load_options(parser)
    add_context_options(parser)


def run(args: argparse.Namespace) -> None:
    """Print word and character error rates, of translations BLEU and chrF, with their 95% intervals.

    A recording that cannot be read is named on stderr and counts as an empty hypothesis.

    Raises:
        UserError: the table is wrong, none of its recordings can be read, or options contradict the model.
    """
    from residualformer.metrics.texts import text_measures  # needs an extra

    spoken = read_table(args.table)
    model = load_as_asked(args, words=False)
    context = context_of(args, model.pieces, model.decode)
    hypotheses, missing = [], 0
    for outcome in model.transcribe_many((each.path for each in spoken), context=context, errors="return"):
        if isinstance(outcome, UserError):
            print(f"error: {outcome}", file=sys.stderr)
            missing += 1
        hypotheses.append("" if isinstance(outcome, UserError) else outcome.text)
    if missing == len(spoken):
        raise UserError("no recording could be read (reasons above).")
    measures = text_measures([each.text for each in spoken], hypotheses, model.target == "translation")
    scores = {name: measure.rounded() for name, measure in measures.items()}
    if args.json:
        values = {name: {k: v for k, v in asdict(score).items() if v is not None} for name, score in scores.items()}
        print(json.dumps({"utterances": len(spoken), "missing": missing, **values}))
        return
    for name, score in scores.items():
        print(f"{NAMES[name]} {score.value} (95% interval {score.low} to {score.high}), {len(spoken)} recordings")


def read_table(path: Path) -> list[Spoken]:
    """Read recordings and transcripts; relative paths begin at the table.

    Raises:
        UserError: it is missing or empty, or a line has not two cells.
    """
    found = []
    for number, line in enumerate(split_lines(read_text(path, "give a table of paths and transcripts")), start=1):
        cells = line.split("\t")
        if not line.strip() or number == 1 and cells == HEADER:
            continue
        if len(cells) != 2 or not cells[0].strip():
            raise UserError(f"{path}, line {number} has {len(cells)} cells: give a path, a tab and the transcript.")
        found.append(Spoken(path.parent / cells[0].strip(), cells[1]))
    if not any(each.text.split() for each in found):
        raise UserError(f"{path} holds no transcript: give a path, a tab and what is said, one recording a line.")
    return found
