"""Recordings of people as splits of the corpus: what the models are tested on, or chosen by, never trained on."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from residualformer.data.splits import cuts_file
from residualformer.errors import UserError
from residualformer.workflow.options import caller_path

LONGEST_S = 40.0  # of an utterance; sentences of audio books are shorter
_NAME = re.compile(r"[A-Za-z0-9_-]+(@[A-Za-z0-9_-]+)?")


def recordings(value: str) -> str:
    """Return NAME=PATH with the absolute path of data: recordings that become the split NAME."""
    name, equal, path = value.partition("=")
    if not equal or not _NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"is '{value}'; write NAME=PATH, such as kitchen=my_recordings")
    if name == "train":
        raise argparse.ArgumentTypeError("train=...: nothing is trained on recordings; name a test set, or dev")
    return f"{name}={caller_path(path)}"


def by_split(values: Sequence[str] | None) -> dict[str, Path]:
    """Return the paths of --recordings by their splits; UserError for a path that does not exist or a split twice."""
    found: dict[str, Path] = {}
    for value in values or ():
        name, _, path = value.partition("=")
        if name in found:
            raise UserError(f"--recordings {name}=... is given twice: put the recordings into one folder.")
        if not Path(path).exists():
            raise UserError(f"--recordings {value} does not exist: give recordings with texts (docs/own_data.md).")
        found[name] = Path(path)
    return found


def write_recordings(split: str, source: Path, upper: bool, out: Path, jobs: int) -> None:
    """Write the validated cuts of a split, with texts in the case of the phrases and without punctuation.

    `source` has one of the layouts of custom data: a folder with audio and texts, a table, or Lhotse cuts.
    """
    from lhotse import CutSet

    from local import custom
    from local.custom_data.layouts import read_data, recognize_layout
    from residualformer.data.validate import save_cuts

    data = read_data(source, recognize_layout(source))
    text = argparse.Namespace(case="upper" if upper else "lower", punctuation="remove", target="text")
    usable = argparse.Namespace(min_seconds=0.1, max_seconds=LONGEST_S, out=out, jobs=jobs)
    cuts = custom.validate(custom.select(data, text), data, usable)
    if not cuts:
        raise UserError(f"--recordings {split}={source}: none can be used: {custom.summary(data.dropped)}.")
    if data.dropped:
        print(f"{split}: left out {custom.summary(data.dropped)}.{custom.example(data)}")
    save_cuts(CutSet.from_cuts(cuts), split, cuts_file(out, split), 0)
