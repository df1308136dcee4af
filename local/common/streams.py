"""Streams: several rendered utterances in a row with pauses between them, as an always-on device hears speech.

A pause is white noise, as loud as the quietest tenth of a second of the utterance that follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from local.common import acoustics
from local.common.synthesis import SAMPLING_RATE, Record, generator, write_sound

STREAMS = "streams"  # the folder of a corpus that holds them
SENTENCES = 3  # of a stream
QUIET_S = 0.1  # the stretch that tells how loud a pause is


def join_records(records: Sequence[Record], folder: Path, pauses: float, seed: int) -> Iterator[Record]:
    """Write streams of `SENTENCES` utterances of a split, in their order; yield the records of the streams.

    Each has pauses for a share `pauses` of its time, from 0 to below 1, before its utterances and of random lengths.
    The last stream may have fewer utterances. Audio: `folder`/`STREAMS`/<split>/<id>.flac.
    """
    for start in range(0, len(records), SENTENCES):
        members = records[start : start + SENTENCES]
        name = f"{members[0]['id']}-stream"
        speech = [soundfile.read(folder / each["audio"], dtype="int16")[0] for each in members]
        samples = _joined(speech, pauses, generator(seed, name))
        audio = f"{STREAMS}/{members[0]['split']}/{name}.flac"
        write_sound(samples, folder / audio)
        yield {
            "id": name,
            "split": members[0]["split"],
            "text": " ".join(each["text"] for each in members),
            "translation": "".join(each["translation"] for each in members),
            "speaker": "+".join(dict.fromkeys(each["speaker"] for each in members)),
            "duration": round(len(samples) / SAMPLING_RATE, 4),
            "audio": audio,
        }


def _joined(speech: Sequence[np.ndarray], pauses: float, rng: np.random.Generator) -> np.ndarray:
    """Return utterances, int16 of shape (samples,), in a row with a pause before each."""
    whole = sum(map(len, speech)) * pauses / (1 - pauses)
    counts = np.round(whole * rng.dirichlet(np.ones(len(speech)))).astype(int)
    parts = [part for each, count in zip(speech, counts) for part in (_pause(each, count, rng), each)]
    return np.concatenate(parts)


def _pause(following: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a pause of `count` samples that comes before the samples `following`, int16."""
    stretches = np.array_split(following, max(1, int(len(following) / (QUIET_S * SAMPLING_RATE))))
    level = min(acoustics.rms(each) for each in stretches)
    return np.clip(np.round(level * rng.standard_normal(count)), -32768, 32767).astype(np.int16)
