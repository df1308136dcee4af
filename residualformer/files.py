"""Atomic writes (a reader sees the old file or the whole new one), and reading of text and JSON that may be damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from residualformer.errors import UserError

CHECK = "check"  # the key of the check sum in a JSON file that has one
OLD = "old"  # the folder of results that others have displaced
_LEFTOVER = re.compile(r"\.\d+\..+")  # a process writes NAME as .PID.NAME


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` on success and is removed on failure.

    The suffix of `path` is kept, because Lhotse and torch choose a format by it. An OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_tree(folder: Path, may_replace: Callable[[Path], bool], refusal: str) -> Iterator[Path]:
    """Yield a new folder beside `folder`; it replaces `folder` on success and is removed on failure.

    Raises UserError, "`folder` exists and `refusal`", if it is neither an empty folder nor one that may be replaced.
    """
    folder = folder.resolve()  # '.' has no name from which to derive another
    if folder.exists() and not may_replace(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and {refusal}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{os.getpid()}.{kind}.{folder.name}") for kind in ("new", "old"))
    try:
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`. No other process may be writing there."""
    for path in folder.glob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def set_aside(folder: Path) -> Path:
    """Move a result to `old/<name>.<number>` beside it, where no table of results looks. Return the new path."""
    old = folder.parent / OLD
    old.mkdir(exist_ok=True)
    return folder.rename(numbered(old / folder.name))


def numbered(path: Path) -> Path:
    """Return `path` with the first number behind it that is not taken, such as `<name>.1`."""
    return next(each for n in count(1) if not (each := path.with_name(f"{path.name}.{n}")).exists())


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file atomically, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str, advice: str) -> dict[str, Any]:
    """Read the mapping in a JSON file; raise UserError, ending in `advice`, if it is missing or holds anything else."""
    value = _parsed(read_text(path, advice), str(path), advice)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON mapping: {advice}.")
    return value


def write_checked_json(path: Path | str, value: dict[str, Any]) -> None:
    """Write a mapping as `write_json` does, with a check sum."""
    write_json(path, {**value, CHECK: digest(value)})


def read_checked_json(path: Path | str, advice: str) -> dict[str, Any]:
    """Read what `write_checked_json` wrote; raise UserError as `read_json`, and if the check sum is another one."""
    value = read_json(path, advice)
    if value.pop(CHECK, None) != digest(value):
        raise UserError(f"{path} is damaged (its content has another check sum than it says): {advice}.")
    return value


def digest(value: Any) -> str:
    """Return twelve hexadecimal digits that change when a JSON value does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def read_json_lines(path: Path | str, advice: str) -> list[Any]:
    """Read the values in the lines of a JSONL file; raise UserError, ending in `advice`, if it is absent or damaged."""
    lines = split_lines(read_text(path, advice))
    return [_parsed(line, f"{path}, line {number}", advice) for number, line in enumerate(lines, start=1)]


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """Read the mappings in a JSONL file that is appended to, ignoring what a crash left unfinished."""
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_text(path: Path | str, advice: str) -> str:
    """Read a text file; raise UserError, ending in `advice`, if it is missing or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {advice}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text ({error}): {advice}.") from error


def split_lines(text: str) -> list[str]:
    """Split `text` at newlines only; `str.splitlines` also splits at U+2028, U+0085 and others."""
    return text.removesuffix("\n").split("\n") if text else []


def _parsed(text: str, place: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({error}): {advice}.") from error
