"""Perplexities of a language model on text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from residualformer.context.scorer import Context

SENTENCES = 64  # that are scored together


@dataclass(frozen=True)
class Perplexity:
    """-log P of a text in nats, and what it consists of; the end of a sentence counts as a token and as a word."""

    nats: float
    sentences: int
    tokens: int
    words: int

    @property
    def per_token(self) -> float:
        """The perplexity of a token."""
        return _exp(self.nats / (self.tokens + self.sentences))

    @property
    def per_word(self) -> float:
        """The perplexity of a word."""
        return _exp(self.nats / (self.words + self.sentences))


def perplexity(model: Context, sentences: Sequence[Sequence[int]], num_words: int) -> Perplexity:
    """Return the perplexity of `sentences`, labels each, in which there are `num_words` words."""
    nats = sum(_nats(model, sentences[start : start + SENTENCES]) for start in range(0, len(sentences), SENTENCES))
    return Perplexity(nats, len(sentences), sum(map(len, sentences)), num_words)


def _nats(model: Context, sentences: Sequence[Sequence[int]]) -> float:
    """Return -log P of sentences that are scored side by side."""
    scorer, total = model.scorer(), 0.0
    running = sorted(sentences, key=len, reverse=True)
    states = np.full(len(running), scorer.start(), np.int64)
    for position in range(len(running[0]) + 1 if running else 0):
        going = sum(len(labels) > position for labels in running)
        total += float(scorer.final(states[going:]).sum(dtype=np.float64)) if going < len(states) else 0.0
        states = states[:going]
        if going:
            labels = np.array([each[position] for each in running[:going]], np.int64)
            total += float(scorer.scores(states)[np.arange(going), labels].sum(dtype=np.float64))
            states = scorer.advance(states, labels)
            scorer.keep(states)
    return -total


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
