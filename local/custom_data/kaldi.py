"""The layout `kaldi`: text, wav.scp (or audio found by name), optional utt2spk, segments and translation."""

from __future__ import annotations

from pathlib import Path

from local.custom_data.entries import (
    NO_AUDIO,
    NO_TEXT,
    Data,
    Entry,
    audio_below,
    by_split,
    find_audio,
    read_lines,
)
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError


def find_kaldi(source: Path) -> list[tuple[Path, str]]:
    """Return the Kaldi folders that `source` is or holds, each with its split."""
    if (source / "text").is_file():
        return [(source, "")]
    return by_split(path.parent for path in sorted(source.glob("*/text")))


def read_kaldi(folders: list[tuple[Path, str]]) -> Data:
    """Read Kaldi folders: each line of `text` is an utterance.

    Raises:
        UserError: wav.scp has commands or archives, or a name may mean several files.
    """
    data = Data()
    for folder, split in folders:
        data.add(_read_folder(folder, split))
    return data


def _read_folder(folder: Path, split: str) -> Data:
    texts, segments = _pairs(folder / "text"), dict(_pairs(folder / "segments"))
    speakers, translations = dict(_pairs(folder / "utt2spk")), dict(_pairs(folder / "translation"))
    recordings = _listed_recordings(folder) if (folder / "wav.scp").is_file() else _named_recordings(folder, texts)
    data, used = Data(), set()
    for name, text in texts:
        recording, start = name, 0.0
        duration: float | None = None
        if segments:
            try:
                recording, first, last = segments.get(name, "").split()[:3]
                start, duration = float(first), float(last) - float(first)
                if float(last) == -1:  # Kaldi: up to the end of the recording
                    duration = None
            except ValueError:
                data.drop(name, NO_AUDIO, f"{folder / 'segments'} has no line 'id recording start end' for it")
                continue
        used.add(recording)
        utterance = CorpusUtterance(
            id=name,
            audio=recordings.get(recording),
            text=text,
            speaker=speakers.get(name, ""),
            language="",
            translation=translations.get(name, ""),
            start=start,
            duration=duration,
        )
        data.entries.append(Entry(utterance, split))
    for recording, path in recordings.items():
        if recording not in used:
            data.drop(recording, NO_TEXT, str(path))
    return data


def _listed_recordings(folder: Path) -> dict[str, Path]:
    """Return the files of the recordings in wav.scp, by name."""
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


def _named_recordings(folder: Path, texts: list[tuple[str, str]]) -> dict[str, Path]:
    """Return the recordings of a folder without wav.scp; a name in `text` is a path, or a file name without suffix."""
    files: dict[str, Path] = {}
    named = dict(texts)
    for path in audio_below(folder):
        if files.setdefault(path.stem, path) != path and path.stem in named:
            raise UserError(
                f"{folder / 'text'}: '{path.stem}' may be {files[path.stem]} or {path}: write paths "
                "in place of names there, or list the paths in wav.scp."
            )
    stems = {Path(name).stem for name in named}
    return {name: files.get(name, find_audio(name, folder)) for name in named} | {
        name: path for name, path in files.items() if name not in stems
    }


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return each line of a Kaldi file as its first word and the rest; none if there is no such file."""
    lines = read_lines(path) if path.is_file() else []
    parts = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(part[0], part[1].strip() if len(part) > 1 else "") for part in parts]
