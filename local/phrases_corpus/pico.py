"""Voices of SVOX Pico (https://pypi.org/project/py-nanotts): one or two for a language, at any speed and pitch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from local.common.synthesis import Speaker
from residualformer.errors import UserError
from residualformer.optional import optional

SAMPLING_RATE = 16000  # Hz
SPEED, PITCH = (0.8, 1.25), (0.75, 1.35)  # bounds of the factors of uniform distributions
VOLUME = 0.5  # louder ones clip
VOICES = {
    "en": ["en-GB", "en-US"],
    "de": ["de-DE"],
    "es": ["es-ES"],
    "fr": ["fr-FR"],
    "it": ["it-IT"],
}


@dataclass(frozen=True)
class PicoVoice:
    """A voice at another speed and pitch."""

    name: str
    speed: float
    pitch: float

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of a text, int16 of shape (samples,), and their rate in Hz."""
        spoken = _engine().speak(written, voice=self.name, speed=self.speed, pitch=self.pitch, volume=VOLUME)
        return np.frombuffer(spoken, np.int16), SAMPLING_RATE


def pico_voices(language: str) -> list[str]:
    """Return the voices of a language; UserError if the package is missing or does not speak it."""
    optional("py_nanotts")
    if language not in VOICES:
        raise UserError(f"--language {language}: pico has {', '.join(VOICES)}; take another engine.")
    return VOICES[language]


def make_pico_speakers(prefix: str, count: int, timbres: list[str], rng: np.random.Generator) -> list[Speaker]:
    """Return `count` speakers, spread evenly over voices, random in speed and pitch."""
    speakers = []
    for number in range(count):
        name = timbres[number % len(timbres)]
        speed, pitch = (round(float(rng.uniform(*bounds)), 3) for bounds in (SPEED, PITCH))
        speakers.append(Speaker(f"{prefix}{number:03d}-{name}", PicoVoice(name, speed, pitch)))
    return speakers


@lru_cache(1)
def _engine() -> Any:
    return optional("py_nanotts").NanoTTS()
