"""Atomic writes: a reader sees the old file or the whole new one, never a half. Reading of JSON that may be damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from residualformer.errors import UserError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`, on failure it is removed.

    The suffix of `path` is kept (Lhotse and torch choose a format by it). An OSError names `path`.
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


def read_json(path: Path | str, advice: str) -> dict[str, Any]:
    """The mapping in a JSON file; UserError, which ends in `advice`, when there is no such file or it holds none."""
    value = _parsed(read_text(path, advice), str(path), advice)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON mapping: {advice}.")
    return value


def read_json_lines(path: Path | str, advice: str) -> list[Any]:
    """The value in each line of a JSONL file; UserError as `read_json`'s, with the line's number."""
    lines = split_lines(read_text(path, advice))
    return [_parsed(line, f"{path}, line {number}", advice) for number, line in enumerate(lines, start=1)]


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """The mappings in a JSONL file that is appended to; what a crash left unfinished is passed over."""
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records += [record] if isinstance(record, dict) else []
    return records


def read_text(path: Path | str, advice: str) -> str:
    """The content of a text file; UserError, which ends in `advice`, when there is no such file or it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {advice}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text ({error}): {advice}.") from error


def split_lines(text: str) -> list[str]:
    """Its lines; unlike `str.splitlines` no more, where a text holds Unicode's line separators (U+2028, U+0085)."""
    return text.removesuffix("\n").split("\n") if text else []


def _parsed(text: str, place: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error}): {advice}.") from error
