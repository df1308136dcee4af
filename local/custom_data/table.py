"""The layout `table`: a TSV or CSV file with columns path and text.

Optional columns are translation, speaker, split and id; start and duration or end, in seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

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
    "start": ("start", "offset"),
    "duration": ("duration",),
    "end": ("end",),
}
_SURPLUS = "\0"  # csv.DictReader's key for cells beyond the last column


def find_tables(source: Path) -> list[tuple[Path, str]]:
    """Return the tables in a folder, or the one that is given, each with its split."""
    files = [source] if source.is_file() else sorted([*source.glob("*.tsv"), *source.glob("*.csv")])
    tables = [path for path in files if path.suffix in (".tsv", ".csv") and {"path", "text"} <= _header(path).keys()]
    return by_split(tables)


def read_tables(tables: list[tuple[Path, str]]) -> Data:
    """Read tables: each row is an utterance.

    Raises:
        UserError: there are several tables and none is train, or a quotation mark is not closed.
    """
    if len(tables) > 1 and not tables[0][1]:
        names = ", ".join(path.name for path, _ in tables)
        raise UserError(f"there are several tables ({names}), none named train: give the one you mean as --data.")
    data = Data()
    for path, split in tables:
        _read_table(path, split, data)
    return data


def _rows(path: Path) -> csv.DictReader:
    """Return a reader of the rows; a .csv is delimited by that of , ; | and tab that is most frequent in its header."""
    lines = read_lines(path)
    if path.suffix == ".tsv":
        return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restkey=_SURPLUS)
    head = lines[0] if lines else ""
    text = [f"{line}\n" for line in lines]  # a quoted cell may contain the end of a line
    return csv.DictReader(text, delimiter=max(",;|\t", key=head.count), strict=True, restkey=_SURPLUS)


def _checked(rows: csv.DictReader, path: Path) -> Iterator[dict[str, str]]:
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


def _header(path: Path) -> dict[str, str]:
    """Return the table's name of each known column, by our name."""
    try:
        given = {name.strip().lower(): name for name in _rows(path).fieldnames or []}
    except csv.Error:
        return {}  # not a table
    found = {ours: next((given[name] for name in names if name in given), None) for ours, names in COLUMNS.items()}
    return {ours: name for ours, name in found.items() if name is not None}


def _read_table(path: Path, split: str, data: Data) -> None:
    header = _header(path)
    for number, row in enumerate(_checked(_rows(path), path), start=2):
        cell = {ours: (row[name] or "").strip() for ours, name in header.items()}
        if not cell["path"]:
            data.drop(f"{path.name}, row {number}", NO_AUDIO, "its path is empty")
            continue
        name = cell.get("id") or _name(cell["path"], path.parent)
        if any(row.get(_SURPLUS) or ()):  # otherwise a text with a delimiter would be cut off
            data.drop(name, BAD_ROW, f"{path}, row {number}: it has more cells than there are columns")
            continue
        try:
            start, duration = _times(cell)
        except ValueError:
            data.drop(name, BAD_ROW, f"{path}, row {number}: start, duration and end must be seconds")
            continue
        if start and not cell.get("id"):
            name = f"{name}-{start:g}"
        if (given := cell.get("split", "")) and not split_of(given):
            data.drop(name, BAD_ROW, f"{path}, row {number}: split is '{given}', not train, dev or test")
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
        )
        data.entries.append(Entry(utterance, split or split_of(given)))


def _name(path: str, folder: Path) -> str:
    """Return an id for an audio file: its path without suffix, relative to the folder of the table if possible."""
    audio = Path(path)
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
