"""The output units of an exported folder, `tokens.txt`: one `piece id` a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from residualformer.errors import UserError

SPACE = "\u2581"  # sentencepiece's visible space


def read_tokens(path: Path | str) -> list[str]:
    """The pieces in the order of their ids; UserError when the file is missing or its ids are not 0, 1, 2 ..."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing: export the model again.")
    pieces: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        piece, _, index = line.rpartition(" ")
        if index != str(len(pieces)):
            raise UserError(f"{path}, line {number}: the id is '{index}', not {len(pieces)}: export the model again.")
        pieces.append(piece)
    return pieces


def to_text(pieces: Iterable[str]) -> str:
    """The text that `pieces` spell, without the space before its first word."""
    return "".join(pieces).replace(SPACE, " ").removeprefix(" ")
