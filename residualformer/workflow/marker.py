"""Markers: what was made, with which options and inputs, is kept in `.<name>.done` beside an output.

A marker says `finished` only after success. It holds a check sum, so that a damaged marker counts as none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from residualformer.errors import UserError
from residualformer.files import digest, read_checked_json, write_checked_json
from residualformer.model import identity
from residualformer.model.identity import Change
from residualformer.records import read_dataclass

LARGE = 1 << 20  # bytes; the content of a larger file is told by its size
INPUT = "input "  # begins the names of what a stage builds on


@dataclass(frozen=True)
class Marker:
    """The record of a command.

    Attributes:
        finished: whether it succeeded.
        identity: all that decides its output, as {name: value}.
        made: {file: content} of what later stages read.
    """

    finished: bool
    identity: dict[str, Any]
    made: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Marker | None:
        """Return the marker in a file, or None if there is none that can be trusted."""
        try:
            return read_dataclass(cls, read_checked_json(path, "it counts as none"))
        except (UserError, ValueError):
            return None

    def write(self, path: Path) -> None:
        """Write the marker to a file."""
        write_checked_json(path, asdict(self))

    @property
    def fingerprint(self) -> str:
        """Twelve digits that change with the options or inputs; the same work done again leaves them as they were."""
        return digest({"finished": self.finished, "identity": self.identity})

    def changes(self, wanted: Mapping[str, Any]) -> list[Change]:
        """Return what is not as in the identity `wanted`.

        An input that this marker does not tell was as it is now: inputs follow from the configuration.
        """
        untold = {name: value for name, value in wanted.items() if name.startswith(INPUT)}
        return identity.changes(untold | self.identity, wanted)


def marker_of(output: Path) -> Path:
    """Return the path of the marker of an output."""
    return output.with_name(f".{output.name}.done")


def is_finished(output: Path) -> bool:
    """Return whether an output is finished, by its marker."""
    found = Marker.read(marker_of(output))
    return found is not None and found.finished


def contents(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return {file: content} of the files in a folder that match any of the glob patterns."""
    files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in files}


def _content(path: Path) -> str:
    size = path.stat().st_size
    return f"{size} bytes" if size > LARGE else hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def in_words(change: Change) -> str:
    """Return what has changed; of an input the fingerprints would tell nothing."""
    return f"{change.name} was made with other options" if change.name.startswith(INPUT) else str(change)
