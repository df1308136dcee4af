"""A fingerprint of a data folder: it changes when a file comes, goes or changes, so that stage 0 runs again.

Of audio the size tells, of all else the content.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

from residualformer.errors import UserError, run_main

AUDIO = frozenset(".wav .flac .mp3 .ogg .opus .oga .aif .aiff .au .sph .w64 .caf .m4a .aac .wma".split())
LARGEST = 1 << 26  # bytes of a file that are read


def content(source: Path) -> str:
    """Twelve hexadecimal digits for a file, or a folder with all that is below it."""
    if not source.exists():
        raise UserError(f"--data {source} does not exist: give a folder with audio and text, a table or Lhotse cuts.")
    files = files_below(source) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():  # a broken link
            continue
        digest.update(f"{file.relative_to(source)}\0{file.stat().st_size}\0".encode())
        if file.suffix.lower() not in AUDIO:
            with open(file, "rb") as opened:
                digest.update(opened.read(LARGEST))
    return digest.hexdigest()[:12]


def files_below(folder: Path) -> list[Path]:
    """All files in `folder` and below, behind links too, in order of their names; hidden ones are none."""
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):  # Path.rglob passes over linked folders
        folders[:] = [name for name in folders if name[0] != "."]
        files += [Path(place, name) for name in names if name[0] != "."]
    return sorted(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder or file")
    print(content(parser.parse_args().source))


if __name__ == "__main__":
    run_main(main)
