"""Sentences said with pauses, as people spell names and think of numbers; what engines say runs on from word to word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from local.common.synthesis import Voice, trimmed

BREAK = "\n"  # stands for a pause in a text as an engine reads it
PAUSE_S = (0.05, 0.8)  # bounds of a log-uniform distribution
OFTEN = (0.3, 1.0)  # chances of a pause between two words: a sentence with some, or word by word


@dataclass(frozen=True)
class Halting:
    """A voice that pauses at each BREAK, and says what is between two of them as a sentence of its own."""

    voice: Voice

    def speak(self, written: str, seed: int) -> tuple[np.ndarray, int]:
        """Return the samples of a text, int16 of shape (samples,), and their rate in Hz."""
        rng = np.random.default_rng(seed)
        said: list[np.ndarray] = []
        for piece in written.split(BREAK):
            samples, rate_hz = self.voice.speak(piece, seed)
            pause_s = np.exp(rng.uniform(*np.log(PAUSE_S))) if said else 0.0
            said += [np.zeros(round(pause_s * rate_hz), np.int16), samples[trimmed(samples, rate_hz)]]
        return np.concatenate(said), rate_hz


def with_breaks(text: str, spelled: bool, written: Callable[[str, bool], str], rng: np.random.Generator) -> str:
    """Return a text as an engine reads it, with BREAK between some of its words.

    Beside a single letter there is none unless all are `spelled`: its neighbors tell whether "a" is a letter.
    """
    chance = rng.choice(OFTEN)
    words = text.split()
    pieces = [words[:1]]
    for before, word in zip(words, words[1:], strict=False):
        may = spelled or min(len(before), len(word)) > 1
        if rng.random() < chance and may:
            pieces.append([word])
        else:
            pieces[-1].append(word)
    return BREAK.join(written(" ".join(piece), spelled) for piece in pieces)
