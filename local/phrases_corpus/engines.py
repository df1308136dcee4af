"""Engines that speak the phrases, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from local.common.synthesis import ACCENTS, VARIANTS, Speaker, make_speakers
from local.phrases_corpus.kokoro import MODEL, VOICES, kokoro_voices, make_kokoro_speakers, read_model
from local.phrases_corpus.letters import as_ssml, in_words
from local.phrases_corpus.pico import make_pico_speakers, pico_voices
from local.phrases_corpus.piper import make_piper_speakers, timbres_in
from residualformer.errors import UserError

ENGLISH = "en"


@dataclass(frozen=True)
class Engine:
    """What speaks.

    Attributes:
        timbres: names of its sounds of voice; no two splits share one.
        speakers: makes so many speakers of these timbres, whose names begin so, with random speed and pitch.
        written: writes a text as the engine reads it; with True single letters are always said by name.
    """

    timbres: Sequence[str]
    speakers: Callable[[str, int, list[str], np.random.Generator], list[Speaker]]
    written: Callable[[str, bool], str]


def _espeak(language: str, models: Path | None) -> Engine:
    """Return espeak-ng, in all its accents of English, or in another of its languages."""
    accents = ACCENTS if language == ENGLISH else [language]
    return Engine(
        timbres=VARIANTS,
        speakers=lambda prefix, count, timbres, rng: make_speakers(prefix, count, timbres, rng, accents),
        written=as_ssml,
    )


def _kokoro(language: str, models: Path | None) -> Engine:
    """Return the voices of Kokoro for a language, and mixtures of them."""
    if models is None:
        raise UserError(f"--engines kokoro needs --kokoro DIR: a folder with {MODEL} and {VOICES}, as published.")
    model, languages = read_model(models, language)
    return Engine(kokoro_voices(model, languages), partial(make_kokoro_speakers, model, languages), in_words)


def _pico(language: str, models: Path | None) -> Engine:
    """Return the voices of SVOX Pico for a language."""
    return Engine(pico_voices(language), make_pico_speakers, in_words)


def _piper(language: str, models: Path | None) -> Engine:
    """Return all speakers of Piper's models in a folder, whatever their language."""
    if models is None:
        raise UserError("--engines piper needs --piper DIR: a folder of its models, NAME.onnx with NAME.onnx.json.")
    known = timbres_in(models)
    return Engine(list(known), partial(make_piper_speakers, known), in_words)


# By name, made for a language and with a folder of models.
ENGINES: dict[str, Callable[[str, Path | None], Engine]] = {
    "espeak": _espeak,
    "kokoro": _kokoro,
    "pico": _pico,
    "piper": _piper,
}
