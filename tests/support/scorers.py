"""A scorer that draws its own numbers for any label sequence, and fails when asked for what it was told to forget."""

from __future__ import annotations

import random

import numpy as np

from residualformer.context.scorer import Array, Scorer

Labels = tuple[int, ...]


class HashScorer(Scorer):
    """Adds to each label, and at the end, a number that depends on the whole sequence, `spread` nats large.

    It forbids the share `forbidden` of all labels and ends.
    """

    def __init__(self, vocab_size: int, seed: int, spread: float = 2.0, forbidden: float = 0.0) -> None:
        self.vocab_size, self.seed, self.spread, self.forbidden = vocab_size, seed, spread, forbidden
        self.sequences: dict[int, Labels] = {}
        self.numbers: dict[Labels, int] = {}
        self.created = 0

    def added(self, labels: Labels, label: int) -> float:
        """What `label` after `labels` adds."""
        draw = random.Random(repr((self.seed, labels, label)))
        value = float(np.float32(draw.gauss(0, self.spread)))
        return -np.inf if draw.random() < self.forbidden else value

    def ending(self, labels: Labels) -> float:
        """What the end after `labels` adds."""
        return self.added(labels, -1)

    def total(self, labels: Labels) -> float:
        """What the whole sequence adds, with its end."""
        return sum(self.added(labels[:u], label) for u, label in enumerate(labels)) + self.ending(labels)

    def start(self) -> int:
        return self._number(())

    def scores(self, states: Array) -> Array:
        rows = [[0.0, *(self.added(self.sequences[s], k) for k in range(1, self.vocab_size))] for s in states.tolist()]
        return np.array(rows, np.float32).reshape(len(rows), self.vocab_size)

    def advance(self, states: Array, labels: Array) -> Array:
        longer = [(*self.sequences[s], k) for s, k in zip(states.tolist(), labels.tolist(), strict=True)]
        return np.array([self._number(each) for each in longer], np.int64)

    def final(self, states: Array) -> Array:
        return np.array([self.ending(self.sequences[s]) for s in states.tolist()], np.float32)

    def keep(self, states: Array) -> None:
        self.sequences = {s: self.sequences[s] for s in states.tolist()}
        self.numbers = {labels: s for s, labels in self.sequences.items()}

    def _number(self, labels: Labels) -> int:
        if labels not in self.numbers:
            self.created += 1  # so a forgotten number is never used again
            self.numbers[labels], self.sequences[self.created] = self.created, labels
        return self.numbers[labels]
