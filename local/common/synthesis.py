"""Synthetic utterances: a sentence, a voice, a room and a noise become a 16 kHz FLAC file.

Each utterance draws from its own generator, seeded by the corpus's seed and its id: the audio does not depend on
how many processes work, nor on what else is rendered.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from local.common import acoustics, espeak
from residualformer.errors import UserError
from residualformer.files import read_json_lines, replacing, write_json

SAMPLING_RATE = 16000
# British, Caribbean, Scottish, Lancastrian, West Midlands, received pronunciation, American, New York
ACCENTS = (
    "en-us en en-us-nyc en-gb-x-rp en-us en-gb-scotland en-029 en-us en-gb-x-gbclan en en-us en-gb-x-gbcwmd"
).split()
# The engine's voice files without the whispers, robots and those that clip, drag or fall below the others.
VARIANTS = (
    "Alex Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Lee Mario Michael Mike Nguyen Reed RicishayMax Storm "
    "adam announcer antonio aunty belinda benjamin boris david ed edward f1 f2 f3 f4 f5 grandma grandpa gustave ian "
    "iven3 iven4 john kaukovalta klatt3 klatt4 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 "
    "norbert pablo paul pedro quincy rob robert sandro shelby travis victor zac"
).split()


@dataclass(frozen=True)
class Conditions:
    """How hard the listening is made; a pair is the ends of a uniform draw, a share is a probability."""

    snr_db: tuple[float, float] = (10.0, 35.0)
    babble_share: float = 0.2  # of the utterances; the rest get coloured noise
    babble_voices: int = 4
    reverb_share: float = 0.3
    rt60_s: tuple[float, float] = (0.15, 0.4)
    direct_to_reverberant_db: tuple[float, float] = (3.0, 12.0)
    level_db: tuple[float, float] = (-32.0, -18.0)  # RMS, relative to full scale
    margin_s: tuple[float, float] = (0.05, 0.3)  # before and after the speech


@dataclass(frozen=True)
class Speaker:
    """A fixed voice with a name."""

    name: str
    voice: espeak.Voice


@dataclass(frozen=True)
class Line:
    """One utterance to be; `spoken` is `text` as the engine has to read it."""

    id: str
    split: str
    text: str
    spoken: str
    speaker: Speaker
    translation: str = ""


def make_speakers(prefix: str, count: int, variants: list[str], rng: np.random.Generator) -> list[Speaker]:
    """`count` different speakers, spread evenly over `variants` and the accents; speed and pitch are drawn."""
    speakers = []
    for number in range(count):
        lap = number // len(variants)  # shift the accents each time round, so that pairs do not repeat
        voice = espeak.Voice(
            accent=ACCENTS[(number + lap) % len(ACCENTS)],
            variant=variants[number % len(variants)],
            words_per_minute=int(rng.integers(140, 196)),
            pitch=int(rng.integers(30, 71)),
            pitch_range=int(rng.integers(30, 71)),
            word_gap=int(rng.choice([0, 0, 0, 1, 2])),
        )
        speakers.append(Speaker(f"{prefix}{number:03d}-{voice.accent}-{voice.variant}", voice))
    return speakers


def generator(seed: int, *names: str) -> np.random.Generator:
    """The generator that belongs to `names` (an id, a purpose) under the corpus's `seed`."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def render(line: Line, others: list[Line], seed: int, conditions: Conditions) -> np.ndarray:
    """The utterance: (samples,) int16 at SAMPLING_RATE. `others` are who may babble behind it."""
    rng = generator(seed, line.id)

    def say(what: Line) -> np.ndarray:
        samples = espeak.synthesize(what.spoken, what.speaker.voice, seed=int(rng.integers(1 << 31)))
        return acoustics.resample(_trim(samples), espeak.SAMPLING_RATE, SAMPLING_RATE)

    margins = [int(SAMPLING_RATE * rng.uniform(*conditions.margin_s)) for _ in range(2)]
    speech = np.pad(say(line), margins)
    if rng.random() < conditions.reverb_share:
        ratio_db = rng.uniform(*conditions.direct_to_reverberant_db)
        response = acoustics.room_response(rng.uniform(*conditions.rt60_s), ratio_db, SAMPLING_RATE, rng)
        speech = acoustics.reverberate(speech, response)
    if rng.random() < conditions.babble_share:
        behind = [say(others[rng.integers(len(others))]) for _ in range(conditions.babble_voices)]
        noise = acoustics.babble(behind, len(speech), rng)
    else:
        color = acoustics.COLORS[str(rng.choice(list(acoustics.COLORS)))]
        noise = acoustics.colored_noise(len(speech), color, rng)
    speech = acoustics.add_noise(speech, noise, rng.uniform(*conditions.snr_db))
    speech = acoustics.set_level(speech, rng.uniform(*conditions.level_db))
    return np.round(speech * 32767).astype(np.int16)


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence the engine leaves at both ends, but for 30 ms in which a weak consonant may hide: (samples,)."""
    level = np.abs(samples.astype(np.int32))
    loud = np.flatnonzero(level > level.max() // 100)
    margin = int(0.03 * espeak.SAMPLING_RATE)
    return samples[max(loud[0] - margin, 0) : loud[-1] + margin] if len(loud) else samples


@dataclass(frozen=True)
class Renderer:
    """Writes lines as `folder`/<split>/<id>.flac; picklable, so that processes can share the work."""

    folder: Path
    seed: int
    conditions: Conditions
    others: list[Line]
    keep: bool  # a file already there is from the same corpus: an interrupted run goes on

    def __call__(self, line: Line) -> float:
        """Render one line unless its file may be kept and is sound; its length in seconds."""
        path = self.folder / line.split / f"{line.id}.flac"
        if self.keep and (duration_s := _sound_duration_s(path)) is not None:
            return duration_s
        samples = render(line, self.others, self.seed, self.conditions)
        flac = io.BytesIO()  # not straight to the file: libsndfile hides why a disk refuses
        soundfile.write(flac, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        with replacing(path) as temporary:
            temporary.write_bytes(flac.getbuffer())
        return len(samples) / SAMPLING_RATE

    def record(self, line: Line, duration_s: float) -> dict:
        """The line of `transcripts.jsonl` for a rendered line."""
        return {
            "id": line.id,
            "split": line.split,
            "text": line.text,
            "translation": line.translation,
            "speaker": line.speaker.name,
            "duration": round(duration_s, 4),
            "audio": f"{line.split}/{line.id}.flac",
        }


def _sound_duration_s(path: Path) -> float | None:
    """Seconds of audio in a FLAC file; None when it is missing or damaged, which its check sums tell."""
    try:
        return len(soundfile.read(path, dtype="int16")[0]) / SAMPLING_RATE
    except (OSError, soundfile.SoundFileError):
        return None


def started_before(folder: Path, splits: list[str], options: dict, conditions: Conditions) -> bool:
    """Whether `folder` holds a corpus, perhaps unfinished, of exactly these options.

    If not, the audio of other options is removed and the new ones are recorded. Raises UserError rather than touch
    split folders that no run of ours has recorded.
    """
    recipe = json.loads(json.dumps({**options, "conditions": asdict(conditions)}))
    path = folder / "options.json"
    try:
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == recipe:
            for half_written in folder.glob("*/.*.flac"):  # by processes that were killed
                half_written.unlink(missing_ok=True)
            return True
    except ValueError:
        pass  # damaged: nobody knows of which options the audio is
    for split in splits:
        if (folder / split).is_dir() and not path.is_file():
            raise UserError(f"'{folder / split}' was not made by this script: give an empty or a new folder as --out.")
        shutil.rmtree(folder / split, ignore_errors=True)
    (folder / "transcripts.jsonl").unlink(missing_ok=True)  # it marks a finished corpus
    write_json(path, recipe)
    return False


def write_transcripts(folder: Path, records: list[dict]) -> None:
    """Write `transcripts.jsonl`, the mark of a finished corpus."""
    with replacing(folder / "transcripts.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_transcripts(folder: Path) -> list[dict]:
    """The records of a finished corpus, an empty list if there is none."""
    path = folder / "transcripts.jsonl"
    if not path.is_file():
        return []
    return read_json_lines(path, "run stage 0 again, with --overwrite")
