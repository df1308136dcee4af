"""The output units of an exported folder, `tokens.txt`: one `piece id` per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from residualformer.constants import SPACE
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines


def read_tokens(path: Path | str) -> list[str]:
    """Read the pieces in the order of their ids; UserError when the file is missing or its ids are not 0, 1, 2 ..."""
    pieces: list[str] = []
    for number, line in enumerate(split_lines(read_text(path, "export the model again")), start=1):
        piece, _, index = line.rpartition(" ")
        if index != str(len(pieces)):
            raise UserError(f"{path}, line {number}: the id is '{index}', not {len(pieces)}: export the model again.")
        pieces.append(piece)
    return pieces


def to_text(pieces: Iterable[str]) -> str:
    """Return the text of `pieces`, without the space before its first word."""
    return "".join(pieces).replace(SPACE, " ").removeprefix(" ")
