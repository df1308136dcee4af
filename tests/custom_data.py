"""The same small data set in each of the four layouts of your own data."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

FRENCH = ("ouvre la fenêtre", "où est l'école ?", "ça va très bien", "il fait déjà nuit")
CHINESE = ("打开窗户", "学校在哪里？", "我很好", "天已经黑了")


@dataclass(frozen=True)
class Said:
    """An utterance to be written down."""

    name: str
    speaker: str
    text: str
    translation: str


def utterances(speakers: int = 6, each: int = 2, text: tuple[str, ...] = FRENCH) -> list[Said]:
    numbers = [(s, u) for s in range(speakers) for u in range(each)]
    return [Said(f"s{s}-u{u}", f"s{s}", text[(s + u) % len(text)], CHINESE[(s + u) % len(CHINESE)]) for s, u in numbers]


def write_audio(path: Path, seed: str, rate: int = 16000, channels: int = 1, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(zlib.crc32(seed.encode())).standard_normal((round(rate * seconds), channels))
    soundfile.write(path, noise, rate)
    return path


def kaldi(folder: Path, said: list[Said], split: str = "") -> Path:
    """wav.scp names the audio as seen from the top folder, whichever the data's."""
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    for one in said:
        write_audio(folder / "audio" / f"{one.name}.wav", one.name, 8000)
    columns = {
        "wav.scp": lambda one: f"audio/{one.name}.wav",
        "text": lambda one: one.text,
        "utt2spk": lambda one: one.speaker,
        "translation": lambda one: one.translation,
    }
    for name, column in columns.items():
        (place / name).write_text("".join(f"{one.name} {column(one)}\n" for one in said), encoding="utf-8")
    return folder


def pairs(folder: Path, said: list[Said], split: str = "") -> Path:
    for i, one in enumerate(said):
        path = folder / split / one.speaker / f"{one.name}.{('flac', 'wav', 'ogg')[i % 3]}"
        write_audio(path, one.name, 44100, channels=1 + i % 2)
        path.with_suffix(".txt").write_text(f"{one.text}\n", encoding="utf-8")
        path.with_name(f"{path.stem}.translation.txt").write_text(f"{one.translation}\n", encoding="utf-8")
    return folder


def table(folder: Path, said: list[Said], split: str = "") -> Path:
    """One TSV, with a column of splits, as Common Voice names its columns."""
    path = folder / "all.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("client_id\tpath\tsentence\ttranslation\tsplit\n")
    with path.open("a", encoding="utf-8") as file:
        for one in said:
            write_audio(folder / "clips" / f"{one.name}.flac", one.name, 22050)
            file.write(f"{one.speaker}\t{one.name}.flac\t{one.text}\t{one.translation}\t{split}\n")
    return folder


def cuts(folder: Path, said: list[Said], split: str = "") -> Path:
    """Paths as seen from the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for one in said:
        path = write_audio(folder / "audio" / f"{one.name}.wav", one.name)
        recording = Recording.from_file(path, recording_id=one.name)
        recording.sources[0].source = f"audio/{one.name}.wav"
        supervision = SupervisionSegment(
            one.name, one.name, 0.0, 1.0, text=one.text, speaker=one.speaker, custom={"translation": one.translation}
        )
        made.append(MonoCut(one.name, 0.0, 1.0, 0, [supervision], recording=recording))
    CutSet.from_cuts(made).to_file(folder / f"cuts{'_' * bool(split)}{split}.jsonl.gz")
    return folder


LAYOUTS = {"kaldi": kaldi, "pairs": pairs, "table": table, "cuts": cuts}
