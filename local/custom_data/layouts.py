"""The four layouts of somebody's own data: which one is it, and its utterances.

`kaldi`: text, wav.scp (or audio found by name), optional utt2spk, segments, translation.
`pairs`: NAME.wav (or any other container) beside NAME.txt, optional NAME.translation.txt; nested as it likes.
`table`: TSV or CSV with columns path and text, optional translation, speaker, split, id; start and duration or end.
`cuts`: Lhotse cuts with supervisions.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from local.custom_data.cuts import find_cuts, read_cut_sets
from local.custom_data.entries import (
    BAD_ROW,
    NO_AUDIO,
    NO_TEXT,
    Data,
    Entry,
    audio_below,
    by_split,
    find_audio,
    read_lines,
    refuse,
    split_of,
)
from residualformer.data.validate import CorpusUtterance
from residualformer.errors import UserError, closest
from residualformer.workflow.inputs import files_below

TRANSLATION = ".translation"
COLUMNS = {  # of a table: our name, then those that are understood, as public data sets have them
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


def recognise(source: Path) -> str:
    """The layout of `source`, a folder or a file; UserError when it is none of them."""
    if not source.exists():
        raise UserError(f"--data {source} does not exist: give a folder with audio and text, a table or Lhotse cuts.")
    for name, (find, _) in LAYOUTS.items():
        if find(source):
            return name
    raise refuse(f"--data {source} has none of the layouts that are known")


def read_data(source: Path, layout: str) -> Data:
    """All utterances of `source` by `layout`, one of LAYOUTS; UserError when it has not got it."""
    if layout not in LAYOUTS:
        raise UserError(f"--layout is '{layout}'; allowed: auto, {', '.join(LAYOUTS)}.{closest(layout, LAYOUTS)}")
    find, read = LAYOUTS[layout]
    parts = find(source)
    if not parts:
        raise refuse(f"--data {source} has not got the layout '{layout}'")
    return read(parts)


# kaldi


def find_kaldi(source: Path) -> list[tuple[Path, str]]:
    if (source / "text").is_file():
        return [(source, "")]
    return by_split(path.parent for path in sorted(source.glob("*/text")))


def read_kaldi(folders: list[tuple[Path, str]]) -> Data:
    data = Data()
    for folder, split in folders:
        data.add(_kaldi_folder(folder, split))
    return data


def _kaldi_folder(folder: Path, split: str) -> Data:
    texts, segments = _pairs(folder / "text"), dict(_pairs(folder / "segments"))
    speakers, translations = dict(_pairs(folder / "utt2spk")), dict(_pairs(folder / "translation"))
    recordings = _recordings(folder, texts)
    data, used = Data(), set()
    for name, text in texts:
        recording, start, duration = name, 0.0, None
        if segments:
            try:
                recording, first, last = segments.get(name, "").split()[:3]
                start, duration = float(first), float(last) - float(first)
            except ValueError:
                data.drop(name, NO_AUDIO, f"{folder / 'segments'} has no line 'id recording start end' for it")
                continue
        used.add(recording)
        utterance = CorpusUtterance(
            name, recordings.get(recording), text, speakers.get(name, ""), "", translations.get(name, ""),
            start=start, duration=duration,
        )  # fmt: skip
        data.entries.append(Entry(utterance, split))
    for recording in recordings.keys() - used:
        data.drop(recording, NO_TEXT, str(recordings[recording]))
    return data


def _recordings(folder: Path, texts: list[tuple[str, str]]) -> dict[str, Path]:
    """Name -> file of wav.scp; without one the first word of a line of text is a path, or a file's name."""
    if not (folder / "wav.scp").is_file():
        files: dict[str, Path] = {}
        named = {name for name, _ in texts}
        for path in audio_below(folder):
            if files.setdefault(path.stem, path) != path and path.stem in named:
                raise UserError(
                    f"{folder / 'text'}: '{path.stem}' may be {files[path.stem]} or {path}: write paths "
                    "in place of names there, or list the paths in wav.scp."
                )
        return {name: files.get(name, find_audio(name, folder)) for name, _ in texts} | {
            name: path for name, path in files.items() if name not in {Path(text).stem for text, _ in texts}
        }
    recordings = {}
    for name, value in _pairs(folder / "wav.scp"):
        if value.endswith("|") or value.startswith("|"):
            raise UserError(
                f"{folder / 'wav.scp'}: '{name}' is made by a command ('{value}'), which is not run here: let the "
                "commands write files (Kaldi: wav-copy, or run each line with > FILE) and list their paths."
            )
        if Path(value.rpartition(":")[0]).suffix == ".ark":
            raise UserError(
                f"{folder / 'wav.scp'}: '{name}' lies in an archive ('{value}'), which is not read here: "
                "write it out (Kaldi: wav-copy) and list the paths of the files."
            )
        recordings[name] = find_audio(value, folder)
    return recordings


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Each line of a Kaldi file as its first word and the rest; empty when there is no such file."""
    lines = read_lines(path) if path.is_file() else []
    parts = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(part[0], part[1].strip() if len(part) > 1 else "") for part in parts]


# pairs


def find_pairs(source: Path) -> list[Path]:
    return [source] if source.is_dir() and any(_text_of(path).is_file() for path in audio_below(source)) else []


def read_pairs(folders: list[Path]) -> Data:
    """The folder next to the top is the split if one of them is train, the next one below is the speaker."""
    (folder,), data = folders, Data()
    audio = audio_below(folder)
    tops = {path.relative_to(folder).parts[0] for path in audio if path.parent != folder}
    split_given = "train" in map(split_of, tops)
    names = set()
    for path in audio:
        relative = path.relative_to(folder)
        name, above = relative.with_suffix("").as_posix(), list(relative.parts[:-1])
        split = split_of(above.pop(0)) if split_given and above else ""
        if split_given and not split:
            data.drop(name, NO_TEXT, "it lies outside the folders of train, dev and test")
        elif not _text_of(path).is_file():
            data.drop(name, NO_TEXT, f"there is no {_text_of(path)}")
        else:
            utterance = CorpusUtterance(
                name, path, _whole(_text_of(path)), above[0] if above else "", "", _whole(_text_of(path, TRANSLATION))
            )
            data.entries.append(Entry(utterance, split))
        names.add(name)
    for path in files_below(folder):
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(TRANSLATION)
        if path.suffix == ".txt" and name not in names:
            data.drop(name, NO_AUDIO, f"{path} has no audio beside it")
    return data


def _text_of(path: Path, kind: str = "") -> Path:
    return path.with_name(f"{path.stem}{kind}.txt")


def _whole(path: Path) -> str:
    return " ".join(read_lines(path)) if path.is_file() else ""


# table


def find_tables(source: Path) -> list[tuple[Path, str]]:
    files = [source] if source.is_file() else sorted([*source.glob("*.tsv"), *source.glob("*.csv")])
    tables = [path for path in files if path.suffix in (".tsv", ".csv") and {"path", "text"} <= _header(path).keys()]
    return by_split(tables)


def read_tables(tables: list[tuple[Path, str]]) -> Data:
    if len(tables) > 1 and not tables[0][1]:
        names = ", ".join(path.name for path, _ in tables)
        raise UserError(f"there are several tables ({names}), none named train: give the one you mean as --data.")
    data = Data()
    for path, split in tables:
        _read_table(path, split, data)
    return data


def _rows(path: Path) -> csv.DictReader:
    """Rows of a table; tabs, or in a .csv the one of , ; | that the header has most of."""
    lines = read_lines(path)
    if path.suffix == ".tsv":
        return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    head = lines[0] if lines else ""
    text = [f"{line}\n" for line in lines]  # a quoted field may hold the end of a line
    return csv.DictReader(text, delimiter=max(",;|\t", key=head.count), strict=True)


def _checked(rows: csv.DictReader, path: Path) -> Iterator[dict[str, str]]:
    """The rows; UserError where a quotation mark that has no second one would swallow all that follows."""
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
    """Our name -> the table's of each column that is understood."""
    try:
        given = {name.strip().lower(): name for name in _rows(path).fieldnames or []}
    except csv.Error:
        return {}  # no table
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
        if any(row.get(None) or ()):  # the text would end at its first delimiter
            data.drop(name, BAD_ROW, f"{path}, row {number}: it has more cells than there are columns")
            continue
        try:
            start, duration = _times(cell)
        except ValueError:
            data.drop(name, BAD_ROW, f"{path}, row {number}: start, duration and end must be seconds")
            continue
        if start and not cell.get("id"):
            name = f"{name}-{start:g}"
        utterance = CorpusUtterance(
            name, find_audio(cell["path"], path.parent), cell["text"], cell.get("speaker", ""), "",
            cell.get("translation", ""), start=start, duration=duration,
        )  # fmt: skip
        if (given := cell.get("split", "")) and not split_of(given):
            data.drop(name, BAD_ROW, f"{path}, row {number}: split is '{given}', not train, dev or test")
            continue
        data.entries.append(Entry(utterance, split or split_of(given)))


def _name(path: str, folder: Path) -> str:
    """An id that is a path without suffix; short where the audio lies beside the table."""
    whole = Path(path)
    if whole.is_absolute() and whole.is_relative_to(folder.resolve()):
        whole = whole.relative_to(folder.resolve())
    return whole.with_suffix("").as_posix().lstrip("/")


def _times(cell: dict[str, str]) -> tuple[float, float | None]:
    """Start and duration in seconds; a duration without a start is but told of the whole file."""
    if not cell.get("start"):
        return 0.0, None
    start = float(cell["start"])
    if cell.get("duration"):
        return start, float(cell["duration"])
    return start, float(cell["end"]) - start if cell.get("end") else None


LAYOUTS: dict[str, tuple[Callable, Callable]] = {  # what finds the parts of a layout, and what reads them
    "cuts": (find_cuts, read_cut_sets),
    "kaldi": (find_kaldi, read_kaldi),
    "table": (find_tables, read_tables),
    "pairs": (find_pairs, read_pairs),
}
