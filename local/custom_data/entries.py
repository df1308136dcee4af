"""Helpers of the four layouts of custom data: an entry per utterance, names of splits, search for audio files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines
from residualformer.workflow.inputs import AUDIO, files_below

if TYPE_CHECKING:  # imports torch, not needed by options
    from lhotse.cut import Cut

LAYOUT_NAMES = ("cuts", "kaldi", "table", "pairs")  # in the order in which they are tried; layouts.py reads them
AUDIO_FOLDERS = ("clips", "wavs", "wav", "audio")  # beside a table, as in Common Voice and LJSpeech
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "development", "valid", "validation", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Reasons to drop an utterance, which the summary counts.
NO_AUDIO, NO_TEXT, EMPTY_TEXT, BAD_ROW = "missing audio", "no transcript", "empty text", "row that cannot be read"


@dataclass(frozen=True)
class Entry:
    """An utterance as the data describes it."""

    utterance: CorpusUtterance
    split: str = ""  # "" if the data gives no splits
    cut: Cut | None = None  # of the layout `cuts`


@dataclass(frozen=True)
class Dropped:
    """An utterance that is left out: one of a few reasons, and a detail about this utterance."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class Data:
    """The entries that a layout holds, and the utterances dropped so far."""

    entries: list[Entry] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, name: str, reason: str, detail: str = "") -> None:
        """Record that an utterance is left out."""
        self.dropped.append(Dropped(name, reason, detail))

    def add(self, other: Data) -> None:
        """Append the entries and the dropped utterances of other data."""
        self.entries += other.entries
        self.dropped += other.dropped


def split_of(name: str) -> str:
    """Return the split that the name of a file or folder, or a cell, refers to ("dev" for "dev-clean"), or ""."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for word in words for split, names in SPLIT_NAMES.items() if word in names), "")


def by_split(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Return those paths whose names are splits, with the split, if train is among them; else all, with ""."""
    paths = list(paths)
    named = [(path, split_of(path.stem.removesuffix(".jsonl"))) for path in paths]
    if "train" in {split for _, split in named}:
        return [(path, split) for path, split in named if split]
    return [(path, "") for path in paths]


def find_audio(name: str, folder: Path) -> Path:
    """Return the path of a file that a list in `folder` names.

    A relative path starts in `folder`, in one of AUDIO_FOLDERS in it, or in a folder above. Where there is no such file
    and the name has Windows' separators, it is tried with ours, and that of a drive (C:\\data\\clips\\a.wav) from each
    of its folders on.
    """
    path = Path(name)
    if path.is_absolute():
        return path
    places = [folder, *(folder / each for each in AUDIO_FOLDERS), *folder.resolve().parents]
    names = [path]
    if "\\" in name:
        parts = PureWindowsPath(name)
        rest = parts.relative_to(parts.anchor).parts
        names += [Path(*rest[n:]) for n in range(len(rest) if parts.anchor else 1)]
    found = (place / each for each in names for place in places if (place / each).is_file())
    return next(found, folder / path)


def audio_below(folder: Path) -> list[Path]:
    """Return the audio files among `files_below`, by suffix."""
    return [path for path in files_below(folder) if path.suffix.lower() in AUDIO]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without a byte order mark."""
    return split_lines(read_text(path, "save it as UTF-8").removeprefix("\ufeff"))


def layout_error(problem: str) -> UserError:
    """Return a UserError about the layout of the data that lists the allowed ones."""
    return UserError(
        f"{problem}. Allowed are: kaldi (a folder with text and wav.scp), pairs (NAME.wav beside NAME.txt, in any "
        "folders), table (TSV or CSV with columns path and text), cuts (Lhotse's, as .jsonl.gz); see docs/own_data.md."
    )
