"""Voices of Kokoro (https://github.com/thewh1teagle/kokoro-onnx): neural ones, which can be mixed into new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from local.common.synthesis import Speaker
from residualformer.errors import UserError
from residualformer.optional import optional
from residualformer.workflow.inputs import content

MODEL, VOICES = "kokoro*.onnx", "voices*.bin"  # as published
SPEED, PITCH = (0.85, 1.2), (0.92, 1.1)  # bounds of the factors of uniform distributions
MIXED = (0.3, 0.7)  # bounds of the share of the first of two voices
# What the first letter of a voice's name says: the language that its text is read in.
LANGUAGES = {
    "en": {"a": "en-us", "b": "en-gb"},
    "es": {"e": "es"},
    "fr": {"f": "fr-fr"},
    "hi": {"h": "hi"},
    "it": {"i": "it"},
    "pt": {"p": "pt-br"},
}


@dataclass(frozen=True)
class Model:
    """The files of a model; `check` is the fingerprint of both."""

    network: Path = field(repr=False)
    voices: Path = field(repr=False)
    check: str


@dataclass(frozen=True)
class KokoroVoice:
    """A mixture of two voices of a model, `share` of the first, at another speed and pitch.

    The style vectors of voices are interpolated. The pitch is changed by playing the samples faster, as Piper's is.
    """

    model: Model
    voices: tuple[str, str]
    share: float
    language: str
    speed: float
    pitch: float

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of a text, int16 of shape (samples,), and their rate in Hz."""
        engine = _load(self.model)
        first, second = (engine.get_voice_style(name) for name in self.voices)
        style = self.share * first + (1 - self.share) * second
        samples, rate = engine.create(written, style, self.speed / self.pitch, self.language)
        return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16), round(rate * self.pitch)


def read_model(folder: Path, language: str) -> tuple[Model, dict[str, str]]:
    """Return the model in a folder, and what it calls the accents of a language.

    Raises:
        UserError: the package or a file is missing, or the model does not speak the language.
    """
    optional("kokoro_onnx")
    files = []
    for pattern in (MODEL, VOICES):
        found = sorted(folder.glob(pattern))
        if not found:
            raise UserError(f"--kokoro {folder} holds no {pattern}: put the model and the voices of a release there.")
        files.append(found[0])
    if language not in LANGUAGES:
        raise UserError(f"--language {language}: kokoro has {', '.join(LANGUAGES)}; take another engine.")
    return Model(*files, check="-".join(map(content, files))), LANGUAGES[language]


def kokoro_voices(model: Model, languages: dict[str, str]) -> list[str]:
    """Return the names of the voices of a language."""
    with np.load(model.voices) as arrays:
        return [name for name in sorted(arrays) if name[0] in languages]


def make_kokoro_speakers(
    model: Model, languages: dict[str, str], prefix: str, count: int, timbres: Sequence[str], rng: np.random.Generator
) -> list[Speaker]:
    """Return `count` speakers: first the voices, then mixtures of two of one accent, random in speed and pitch."""
    speakers = []
    for number in range(count):
        name = other = timbres[number % len(timbres)]
        if number >= len(timbres):
            other = str(rng.choice([each for each in timbres if each[0] == name[0]]))
        share, speed, pitch = (round(float(rng.uniform(*bounds)), 3) for bounds in (MIXED, SPEED, PITCH))
        voice = KokoroVoice(model, (name, other), share, languages[name[0]], speed, pitch)
        speakers.append(Speaker(f"{prefix}{number:03d}-{'+'.join(dict.fromkeys((name, other)))}", voice))
    return speakers


@lru_cache(1)
def _load(model: Model) -> Any:
    """Load a model on one thread, as the utterances are spread over processes."""
    from residualformer.onnx_session import open_session  # takes a second to import, not needed by options

    session = open_session(model.network, "put the model of a release there")
    return optional("kokoro_onnx").Kokoro.from_session(session, str(model.voices))
