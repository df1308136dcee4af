"""Small copies of published corpora in their layouts, with noise for speech."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

CLIPS = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def noise(seed: int, samples: int = 1600) -> np.ndarray:
    return np.random.default_rng(seed).integers(-999, 999, samples).astype(np.int16)


def write_librispeech_part(folder: Path, part: str, speakers: Iterable[int], chapters: int = 1) -> None:
    """<part>/<speaker>/<chapter>/ with two FLACs and their transcripts, as unpacked from the archives."""
    for speaker in speakers:
        for chapter in range(speaker + 1, speaker + 1 + chapters):
            inside = folder / part / str(speaker) / str(chapter)
            inside.mkdir(parents=True)
            lines = []
            for number, text in enumerate(("MISTER QUILTER IS THE APOSTLE", "HE DIDN'T")):
                name = f"{speaker}-{chapter}-{number:04d}"
                soundfile.write(inside / f"{name}.flac", noise(number, 1600 + 16 * number), 16000)
                lines.append(f"{name} {text}\n")
            (inside / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


def write_speechocean(folder: Path, splits: Mapping[str, Sequence[str]], text: str = "KATE LOVES CHINA") -> Path:
    """The tables of each split and two WAVs of each of its speakers."""
    for split, speakers in splits.items():
        (folder / split).mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for speaker in speakers:
            inside = folder / "WAVE" / f"SPEAKER{speaker}"
            inside.mkdir(parents=True)
            for number in range(2):
                name = f"{speaker}{number}"
                soundfile.write(inside / f"{name}.WAV", noise(number), 16000, format="WAV")
                tables["wav.scp"].append(f"{name}\tWAVE/SPEAKER{speaker}/{name}.WAV")
                tables["text"].append(f"{name}\t{text}")
                tables["utt2spk"].append(f"{name} {speaker}")
        for table, lines in tables.items():
            (folder / split / table).write_text("\n".join(lines) + "\n")
    return folder


def write_common_voice(folder: Path, tables: Mapping[str, Sequence[tuple[str, str, str]]]) -> Path:
    """Tables of (client, clip, sentence), each with its clip as MP3."""
    (folder / "clips").mkdir(parents=True)
    for table, rows in tables.items():
        lines = [CLIPS, *(f"{client}\t{clip}\t{sentence}\t2\t0\t\t\t\t\ten\t" for client, clip, sentence in rows)]
        (folder / f"{table}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for _, clip, _ in rows:
            soundfile.write(folder / "clips" / f"{Path(clip).stem}.mp3", noise(1, 8000), 16000, format="MP3")
    return folder
