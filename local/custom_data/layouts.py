"""The four layouts of custom data: find out which one it is, and read its utterances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from local.custom_data.cuts import find_cuts, read_cuts
from local.custom_data.entries import Data, layout_error
from local.custom_data.kaldi import find_kaldi, read_kaldi
from local.custom_data.pairs import find_pairs, read_pairs
from local.custom_data.table import find_tables, read_tables
from residualformer.errors import UserError, closest


class Layout(NamedTuple):
    """The two functions of a layout."""

    find: Callable[[Path], list[Any]]  # returns the parts of the data; none if the layout is another one
    read: Callable[[list[Any]], Data]  # reads these parts


LAYOUTS = {
    "cuts": Layout(find_cuts, read_cuts),
    "kaldi": Layout(find_kaldi, read_kaldi),
    "table": Layout(find_tables, read_tables),
    "pairs": Layout(find_pairs, read_pairs),
}


def recognize_layout(source: Path) -> str:
    """Return the name of the layout of a folder or file.

    Raises:
        UserError: it does not exist, or has none of the layouts.
    """
    if not source.exists():
        raise UserError(f"--data {source} does not exist: give a folder with audio and text, a table or Lhotse cuts.")
    for name, layout in LAYOUTS.items():
        if layout.find(source):
            return name
    raise layout_error(f"--data {source} has none of the known layouts")


def read_data(source: Path, layout: str) -> Data:
    """Read all utterances of a folder or file in one of the LAYOUTS.

    Raises:
        UserError: there is no such layout, or the data do not have it.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout is '{layout}'; allowed: auto, {', '.join(LAYOUTS)}.{closest(layout, LAYOUTS)}")
    parts = LAYOUTS[layout].find(source)
    if not parts:
        raise layout_error(f"--data {source} does not have the layout '{layout}'")
    return LAYOUTS[layout].read(parts)
