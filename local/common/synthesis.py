"""Synthetic utterances: a sentence, spoken by a voice in a room with noise, as a 16 kHz FLAC file.

Each utterance has a random generator of its own, seeded by the seed of the corpus and the id of the utterance. So its
audio depends neither on the number of processes nor on the other utterances.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from local.common import acoustics, espeak
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.splits import cuts_file
from residualformer.errors import UserError
from residualformer.files import read_json_lines, replacing, write_json

Record = dict[str, Any]  # a line of transcripts.jsonl
SAMPLING_RATE = 16000
# British, Caribbean, Scottish, Lancastrian, West Midlands, received pronunciation, American, New York
ACCENTS = (
    "en-us en en-us-nyc en-gb-x-rp en-us en-gb-scotland en-029 en-us en-gb-x-gbclan en en-us en-gb-x-gbcwmd"
).split()
# Voice files of the engine, except for whispers, robots, and those that clip or are too slow or too quiet.
VARIANTS = (
    "Alex Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Lee Mario Michael Mike Nguyen Reed RicishayMax Storm "
    "adam announcer antonio aunty belinda benjamin boris david ed edward f1 f2 f3 f4 f5 grandma grandpa gustave ian "
    "iven3 iven4 john kaukovalta klatt3 klatt4 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 "
    "norbert pablo paul pedro quincy rob robert sandro shelby travis victor zac"
).split()


@dataclass(frozen=True)
class Conditions:
    """Acoustic conditions. Pairs are the bounds of a uniform distribution, shares are probabilities."""

    snr_db: tuple[float, float] = (10.0, 35.0)
    babble_share: float = 0.2  # of the utterances; the others have colored noise
    babble_voices: int = 4
    reverb_share: float = 0.3
    rt60_s: tuple[float, float] = (0.15, 0.4)
    direct_to_reverberant_db: tuple[float, float] = (3.0, 12.0)
    level_db: tuple[float, float] = (-32.0, -18.0)  # RMS, relative to full scale
    margin_s: tuple[float, float] = (0.05, 0.3)  # before and after the speech


class Voice(Protocol):
    """A voice of an engine and its settings; its `repr` tells all of them."""

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of a text as the engine reads it, int16 of shape (samples,), and their rate in Hz."""


@dataclass(frozen=True)
class Speaker:
    """A speaker: a name and a voice."""

    name: str
    voice: Voice


@dataclass(frozen=True)
class Line:
    """An utterance to be rendered; `spoken` is `text` as the engine of the voice reads it."""

    id: str
    split: str
    text: str
    spoken: str
    speaker: Speaker
    translation: str = ""


def make_speakers(
    prefix: str, count: int, variants: list[str], rng: np.random.Generator, accents: Sequence[str] = ACCENTS
) -> list[Speaker]:
    """Return `count` speakers of espeak, spread evenly over variants and accents, random in speed and pitch."""
    speakers = []
    for number in range(count):
        lap = number // len(variants)  # shift the accents on each lap, so that no pair repeats
        voice = espeak.Voice(
            accent=accents[(number + lap) % len(accents)],
            variant=variants[number % len(variants)],
            words_per_minute=int(rng.integers(140, 196)),
            pitch=int(rng.integers(30, 71)),
            pitch_range=int(rng.integers(30, 71)),
            word_gap=int(rng.choice([0, 0, 0, 1, 2])),
        )
        speakers.append(Speaker(f"{prefix}{number:03d}-{voice.accent}-{voice.variant}", voice))
    return speakers


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator for `names` (an id, a purpose) and the seed of the corpus."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def render(line: Line, others: list[Line], seed: int, conditions: Conditions) -> np.ndarray:
    """Render a line; `others` are lines for background babble.

    Returns:
        int16 of shape (samples,), at SAMPLING_RATE.
    """
    rng = generator(seed, line.id)

    def speak(spoken: Line) -> np.ndarray:
        samples, rate_hz = spoken.speaker.voice.speak(spoken.spoken, seed=int(rng.integers(1 << 31)))
        return acoustics.resample(samples[_trimmed(samples, rate_hz)], rate_hz, SAMPLING_RATE)

    margins = [int(SAMPLING_RATE * rng.uniform(*conditions.margin_s)) for _ in range(2)]
    speech = np.pad(speak(line), margins)
    if rng.random() < conditions.reverb_share:
        ratio_db = rng.uniform(*conditions.direct_to_reverberant_db)
        response = acoustics.room_response(rng.uniform(*conditions.rt60_s), ratio_db, SAMPLING_RATE, rng)
        speech = acoustics.reverberate(speech, response)
    if rng.random() < conditions.babble_share:
        voices = [speak(others[rng.integers(len(others))]) for _ in range(conditions.babble_voices)]
        noise = acoustics.babble(voices, len(speech), rng)
    else:
        color = acoustics.COLORS[str(rng.choice(list(acoustics.COLORS)))]
        noise = acoustics.colored_noise(len(speech), color, rng)
    speech = acoustics.add_noise(speech, noise, rng.uniform(*conditions.snr_db))
    speech = acoustics.set_level(speech, rng.uniform(*conditions.level_db))
    return np.round(speech * 32767).astype(np.int16)


def word_times(line: Line, seed: int, conditions: Conditions) -> list[tuple[int, float, float]]:
    """Return place in `spoken`, start and end in seconds of each word that espeak speaks in `render`."""
    assert isinstance(line.speaker.voice, espeak.Voice)
    rng = generator(seed, line.id)  # drawn from as in `render`
    start_s = int(SAMPLING_RATE * rng.uniform(*conditions.margin_s)) / SAMPLING_RATE
    rng.uniform(*conditions.margin_s)
    samples, words = espeak.synthesize_words(line.spoken, line.speaker.voice, seed=int(rng.integers(1 << 31)))
    cut = _trimmed(samples, espeak.SAMPLING_RATE)
    first, last = (cut.start or 0), len(samples[: cut.stop])
    places = ((word.place, *(min(max(each, first), last) - first for each in (word.start, word.end))) for word in words)
    return [(place, *(start_s + each / espeak.SAMPLING_RATE for each in (start, end))) for place, start, end in places]


def _trimmed(samples: np.ndarray, rate_hz: int) -> slice:
    """Return what is left without the silence at both ends, except for 30 ms that may hold a weak consonant."""
    level = np.abs(samples.astype(np.int32))
    loud = np.flatnonzero(level > level.max() // 100)
    margin = int(0.03 * rate_hz)
    return slice(max(loud[0] - margin, 0), loud[-1] + margin) if len(loud) else slice(None)


@dataclass(frozen=True)
class Renderer:
    """A picklable function that writes a line as `folder`/<split>/<id>.flac and returns its duration in seconds."""

    folder: Path
    seed: int
    conditions: Conditions
    others: list[Line]
    keep: bool  # keep sound files of an interrupted run with the same options

    def __call__(self, line: Line) -> float:
        """Render a line, unless its file can be kept, and return the duration in seconds."""
        path = self.folder / line.split / f"{line.id}.flac"
        if self.keep and (duration_s := _sound_duration_s(path)) is not None:
            return duration_s
        samples = render(line, self.others, self.seed, self.conditions)
        write_sound(samples, path)
        return len(samples) / SAMPLING_RATE

    def record(self, line: Line, duration_s: float) -> Record:
        """Return the record of a rendered line in `transcripts.jsonl`."""
        return {
            "id": line.id,
            "split": line.split,
            "text": line.text,
            "translation": line.translation,
            "speaker": line.speaker.name,
            "duration": round(duration_s, 4),
            "audio": f"{line.split}/{line.id}.flac",
        }


def write_sound(samples: np.ndarray, path: Path) -> None:
    """Write samples, int16 of shape (samples,) at SAMPLING_RATE, as a FLAC file."""
    flac = io.BytesIO()  # libsndfile would hide the reason of a failing write
    soundfile.write(flac, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    with replacing(path) as temporary:
        temporary.write_bytes(flac.getbuffer())


def _sound_duration_s(path: Path) -> float | None:
    """Return the duration of a FLAC file, or None if it is missing or its checksums show damage."""
    try:
        return len(soundfile.read(path, dtype="int16")[0]) / SAMPLING_RATE
    except (OSError, soundfile.SoundFileError):
        return None


def prepare_folder(folder: Path, splits: list[str], options: dict[str, Any], conditions: Conditions) -> bool:
    """Return True if `folder` holds a corpus, possibly unfinished, with exactly these options.

    Otherwise remove audio with other options and record the new ones.

    Raises:
        UserError: there are folders of splits, but no record that a script of this project made them.
    """
    recipe = json.loads(json.dumps({**options, "conditions": asdict(conditions)}))
    path = folder / "options.json"
    try:
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == recipe:
            for half_written in folder.glob("*/.*.flac"):  # left by killed processes
                half_written.unlink(missing_ok=True)
            return True
    except ValueError:
        pass  # damaged: the options of the audio are unknown
    for split in splits:
        if (folder / split).is_dir() and not path.is_file():
            raise UserError(f"'{folder / split}' was not made by this script: give an empty or a new folder as --out.")
        shutil.rmtree(folder / split, ignore_errors=True)
    (folder / "transcripts.jsonl").unlink(missing_ok=True)  # it marks a corpus as finished
    write_json(path, recipe)
    return False


def write_transcripts(folder: Path, records: list[Record]) -> None:
    """Write `transcripts.jsonl`, which marks a corpus as finished."""
    with replacing(folder / "transcripts.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_transcripts(folder: Path) -> list[Record]:
    """Return the records of a finished corpus, an empty list if there is none."""
    path = folder / "transcripts.jsonl"
    if not path.is_file():
        return []
    return read_json_lines(path, "run stage 0 again, with --overwrite")


def write_rendered_cuts(folder: Path, out: Path, jobs: int, advice: str) -> None:
    """Write the validated cuts of each split of a finished corpus in `folder`.

    Raises:
        UserError: there is none; the message ends in `advice`.
    """
    from residualformer.data.validate import write_cuts  # imports torch, not needed by options

    records = read_transcripts(folder)
    if not records:
        raise UserError(f"no finished corpus in '{folder}': {advice}.")
    for split in dict.fromkeys(record["split"] for record in records):
        utterances = [
            CorpusUtterance(
                id=record["id"],
                audio=folder / record["audio"],
                text=record["text"],
                speaker=record["speaker"],
                translation=record["translation"],
            )
            for record in records
            if record["split"] == split
        ]
        write_cuts(utterances, split, cuts_file(out, split), SAMPLING_RATE, jobs=jobs)
