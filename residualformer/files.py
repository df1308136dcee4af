"""Atomic writes: a reader sees the old file or the whole new one, never a half."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`, on failure it is removed.

    The suffix of `path` is kept (Lhotse and torch choose a format by it).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path:
    """Move a result to `old/<name>.<number>` beside it, where no table of results looks; gives the new place."""
    old = folder.parent / "old"
    old.mkdir(exist_ok=True)
    target = next(path for n in range(1, 10_000) if not (path := old / f"{folder.name}.{n}").exists())
    return folder.rename(target)


def write_text(path: Path | str, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
