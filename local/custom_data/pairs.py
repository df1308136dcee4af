"""The layout `pairs`: NAME.wav (or another format) beside NAME.txt, optional NAME.translation.txt, in any folders."""

from __future__ import annotations

from pathlib import Path

from local.custom_data.entries import NO_AUDIO, NO_TEXT, Data, Entry, audio_below, read_lines, split_of
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.workflow.inputs import files_below

TRANSLATION = ".translation"


def find_pairs(source: Path) -> list[Path]:
    """Return [source] if it is a folder with at least one pair, else []."""
    return [source] if source.is_dir() and any(_text_of(path).is_file() for path in audio_below(source)) else []


def read_pairs(folders: list[Path]) -> Data:
    """Read pairs. The first folder of a path is the split if one of them is train; the next is the speaker."""
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
            speaker = above[0] if above else ""
            text, translation = _read_text(_text_of(path)), _read_text(_text_of(path, TRANSLATION))
            utterance = CorpusUtterance(name, path, text, speaker, language="", translation=translation)
            data.entries.append(Entry(utterance, split))
        names.add(name)
    for path in files_below(folder):
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(TRANSLATION)
        if path.suffix == ".txt" and name not in names:
            data.drop(name, NO_AUDIO, f"{path} has no audio beside it")
    return data


def _text_of(path: Path, kind: str = "") -> Path:
    """Return the path of the text that belongs to an audio file."""
    return path.with_name(f"{path.stem}{kind}.txt")


def _read_text(path: Path) -> str:
    """Return the lines of a text joined by spaces, "" if there is no such file."""
    return " ".join(read_lines(path)) if path.is_file() else ""
