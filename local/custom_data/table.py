"""The layout `table`: TSV, CSV, JSON lines (NeMo's manifests) with columns path and text, or LJSpeech's metadata.csv.

Optional columns are translation, speaker, split, id and channel; start and duration or end, in seconds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local.custom_data.entries import BAD_ROW, NO_AUDIO, Data, Entry, by_split, find_audio, read_lines, split_of
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError

COLUMNS = {  # our name of a column, and those that public data sets use
    "path": ("path", "audio", "audio_path", "audio_filepath", "file", "file_name", "filename", "wav"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "translation": ("translation",),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
    "split": ("split", "subset"),
    "id": ("id", "utt_id", "utterance_id"),
    "channel": ("channel",),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "end": ("end",),
}
TABLES, JSON_LINES = (".tsv", ".csv"), (".json", ".jsonl")
LJ_COLUMNS = {"path": "path", "text": "text", "id": "id"}  # of LJSpeech's metadata.csv, which has no header
_SURPLUS = "\0"  # csv.DictReader's key for cells beyond the last column

Row = dict[str, Any]


def find_tables(source: Path) -> list[tuple[Path, str]]:
    """Return the tables in a folder, or the one that is given, each with its split."""
    files = [source] if source.is_file() else sorted(path for path in source.glob("*") if path.is_file())
    known = [path for path in files if path.suffix in (*TABLES, *JSON_LINES)]
    return by_split(path for path in known if {"path", "text"} <= _header(path).keys())


def read_tables(tables: list[tuple[Path, str]]) -> Data:
    """Read tables: each row is an utterance.

    Raises:
        UserError: there are several tables and none is train, a quotation mark is not closed, or a line is no JSON.
    """
    if len(tables) > 1 and not tables[0][1]:
        names = ", ".join(path.name for path, _ in tables)
        raise UserError(f"there are several tables ({names}), none named train: give the one you mean as --data.")
    data = Data()
    for path, split in tables:
        _read_table(path, split, data)
    return data


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, in any of its forms, by the names of its columns."""
    if path.suffix in JSON_LINES:
        return _json_rows(path)
    return _lj_rows(path) if _is_lj(path) else _checked(_reader(path), path)


def _reader(path: Path) -> csv.DictReader:
    """Return a reader of the rows; a .csv is delimited by that of , ; | and tab that is most frequent in its header."""
    lines = read_lines(path)
    if path.suffix == ".tsv":
        return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restkey=_SURPLUS)
    head = lines[0] if lines else ""
    text = [f"{line}\n" for line in lines]  # a quoted cell may contain the end of a line
    return csv.DictReader(text, delimiter=max(",;|\t", key=head.count), strict=True, restkey=_SURPLUS)


def _checked(rows: csv.DictReader, path: Path) -> Iterator[Row]:
    """Yield the rows; raise a UserError if an unclosed quotation mark would swallow the rest."""
    try:
        first = rows.line_num + 1 if rows.fieldnames else 1
        for row in rows:
            yield row
            first = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {first}: a cell that begins with a quotation mark must end with one, and any between "
            f'must be doubled ("") ({error}); correct it, or save the table as TSV, which has no quotation.'
        ) from error


def _json_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of JSON lines, the form of NeMo's manifests and of Hugging Face's metadata.jsonl."""
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is no JSON ({error}): write the manifest again.") from error
        if row is not None:
            yield row if isinstance(row, dict) else {}


def _is_lj(path: Path) -> bool:
    """Return whether a table is LJSpeech's metadata.csv: name|text or name|text|normalized text, without a header."""
    lines = read_lines(path)[:1] if path.name == "metadata.csv" else []
    cells = lines[0].split("|") if lines else []
    return len(cells) in (2, 3) and find_audio(f"{cells[0]}.wav", path.parent).is_file()


def _lj_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of an LJSpeech; the text is the normalized one if there is one."""
    for line in filter(str.strip, read_lines(path)):
        name, *texts = line.split("|")
        row: Row = {"path": f"{name}.wav", "id": name, "text": next(filter(None, reversed(texts[:2])), "")}
        yield row | ({_SURPLUS: texts[2:]} if len(texts) > 2 else {})


def _header(path: Path) -> dict[str, str]:
    """Return the table's name of each known column, by our name."""
    try:
        if path.suffix in JSON_LINES:
            names = list(json.loads((read_lines(path) or ["{}"])[0]))
        elif _is_lj(path):
            return LJ_COLUMNS
        else:
            names = list(_reader(path).fieldnames or [])
    except (csv.Error, ValueError, RecursionError, TypeError, UserError):
        return {}  # not a table
    given = {name.strip().lower(): name for name in names if isinstance(name, str)}
    found = {ours: next((given[name] for name in names if name in given), None) for ours, names in COLUMNS.items()}
    return {ours: name for ours, name in found.items() if name is not None}


def _read_table(path: Path, split: str, data: Data) -> None:
    header, first = _header(path), 1 if path.suffix in JSON_LINES or _is_lj(path) else 2
    for number, row in enumerate(_rows(path), start=first):
        cell = {ours: _text(row.get(name)) for ours, name in header.items()}
        place = f"{path}, row {number}"
        if not cell["path"]:
            data.drop(f"{path.name}, row {number}", NO_AUDIO, "its path is empty")
            continue
        name = cell.get("id") or _name(cell["path"], path.parent)
        if any(row.get(_SURPLUS) or ()):  # otherwise a text with a delimiter would be cut off
            data.drop(name, BAD_ROW, f"{place}: it has more cells than there are columns")
            continue
        try:
            start, duration = _times(cell)
        except ValueError:
            data.drop(name, BAD_ROW, f"{place}: start, duration and end must be seconds")
            continue
        if (channel := cell.get("channel", "")) and not channel.isdecimal():
            data.drop(name, BAD_ROW, f"{place}: channel is '{channel}', not a number from 0")
            continue
        if not cell.get("id"):
            name += f"-{start:g}" if start else ""
            name += f"-channel{channel}" if channel else ""
        if (given := cell.get("split", "")) and not split_of(given):
            data.drop(name, BAD_ROW, f"{place}: split is '{given}', not train, dev or test")
            continue
        utterance = CorpusUtterance(
            id=name,
            audio=find_audio(cell["path"], path.parent),
            text=cell["text"],
            speaker=cell.get("speaker", ""),
            language="",
            translation=cell.get("translation", ""),
            start=start,
            duration=duration,
            channel=int(channel) if channel else None,
        )
        data.entries.append(Entry(utterance, split or split_of(given)))


def _text(value: Any) -> str:
    """Return a cell as text; JSON has numbers too."""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _name(path: str, folder: Path) -> str:
    """Return an id for an audio file: its path without suffix, relative to the folder of the table if possible."""
    audio = Path(path.replace("\\", "/"))  # as Windows writes it
    if audio.is_absolute() and audio.is_relative_to(folder.resolve()):
        audio = audio.relative_to(folder.resolve())
    return audio.with_suffix("").as_posix().lstrip("/")


def _times(cell: dict[str, str]) -> tuple[float, float | None]:
    """Return start and duration in seconds; without a start, the utterance is the whole file."""
    if not cell.get("start"):
        return 0.0, None
    start = float(cell["start"])
    if cell.get("duration"):
        return start, float(cell["duration"])
    return start, float(cell["end"]) - start if cell.get("end") else None
