"""Engines that speak the phrases, behind one interface."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from local.common import espeak
from local.common.synthesis import ACCENTS, VARIANTS, Speaker, make_speakers
from local.phrases_corpus.piper import make_piper_speakers, timbres_in
from residualformer.errors import UserError

ENGLISH = "en"


@dataclass(frozen=True)
class Engine:
    """What speaks.

    Attributes:
        timbres: names of its sounds of voice; no two splits share one.
        speakers: makes so many speakers of these timbres, whose names begin so, with random speed and pitch.
        written: writes a text as the engine reads it.
    """

    timbres: Sequence[str]
    speakers: Callable[[str, int, list[str], np.random.Generator], list[Speaker]]
    written: Callable[[str], str]


def _espeak(language: str, models: Path | None) -> Engine:
    """Return espeak-ng, in all its accents of English, or in another of its languages."""
    accents = ACCENTS if language == ENGLISH else [language]
    return Engine(
        timbres=VARIANTS,
        speakers=lambda prefix, count, timbres, rng: make_speakers(prefix, count, timbres, rng, accents),
        written=as_ssml,
    )


def _piper(language: str, models: Path | None) -> Engine:
    """Return all speakers of Piper's models in a folder, whatever their language."""
    if models is None:
        raise UserError("--engines piper needs --piper DIR: a folder of its models, NAME.onnx with NAME.onnx.json.")
    known = timbres_in(models)
    return Engine(list(known), partial(make_piper_speakers, known), written=str.lower)


# By name, made for a language and with a folder of models.
ENGINES: dict[str, Callable[[str, Path | None], Engine]] = {"espeak": _espeak, "piper": _piper}


def as_ssml(text: str) -> str:
    """Return a text as SSML in lower case, in which single letters are said by name.

    "a" and "i" alone are words; beside another single letter they are letters.
    """
    words = text.lower().split()
    single = [len(word) == 1 and word.isalpha() for word in ["", *words, ""]]
    single[0] = single[-1] = False
    said = []
    for word, before, own, after in zip(words, single, single[1:], single[2:], strict=False):
        named = own and (word not in ("a", "i") or before or after)
        said.append(espeak.say_letter(word) if named else html.escape(word, quote=False))
    return " ".join(said)
