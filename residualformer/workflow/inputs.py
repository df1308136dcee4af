"""A fingerprint of the user's files, so that a stage runs again when they change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

AUDIO = frozenset(
    ".wav .flac .mp3 .ogg .opus .oga .aif .aiff .au .sph .w64 .caf .raw "
    ".m4a .m4b .mp4 .3gp .aac .webm .mka .mkv .amr .wma".split()
)
LARGEST = 1 << 26  # bytes that are read of a file


def content(source: Path) -> str:
    """Return twelve digits that change when a file, or one in a folder, comes, goes or changes.

    Of audio the size tells, of all else the content.
    """
    digest = hashlib.sha256()
    for file in files_below(source) if source.is_dir() else [source]:
        if not file.is_file():  # a broken link
            continue
        digest.update(os.fsencode(file.relative_to(source)) + f"\0{file.stat().st_size}\0".encode())
        if file.suffix.lower() not in AUDIO:
            with open(file, "rb") as opened:
                digest.update(opened.read(LARGEST))
    return digest.hexdigest()[:12]


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and below, behind links too, in order of their names, without hidden ones."""
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):  # Path.rglob passes over linked folders
        folders[:] = [name for name in folders if name[0] != "."]
        files += [Path(place, name) for name in names if name[0] != "."]
    return sorted(files)
