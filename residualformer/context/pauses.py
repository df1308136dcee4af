"""Scorers across pauses after which the predictor starts afresh (`decode.restart_s`)."""

from __future__ import annotations

import math

import numpy as np

from residualformer.context.scorer import Array, Scorer

WITHIN, SEPARATED, PAUSED = range(3)  # after a label, after the separator, after a label and a pause


class SeparatingScorer(Scorer):
    """A scorer that reads the separator of words at pauses, where `hypothesis.separated` writes it.

    So it adds to a sequence what it adds to the labels that are written in the end. What the separator adds counts with
    the label that follows the pause; where that is the separator itself, or stood before the pause, there is only one.

    Args:
        separator: the label between words, see `hypothesis.word_separator`.
        blank: the id of the blank.
    """

    def __init__(self, scorer: Scorer, separator: int, blank: int) -> None:
        self.scorer, self.separator, self.blank = scorer, separator, blank
        # Of each paused state of `scorer`: the state after the separator, and what that adds; -inf forbids it.
        self._after: dict[int, tuple[int, float]] = {}

    def start(self) -> int:
        return 3 * self.scorer.start() + WITHIN

    def scores(self, states: Array) -> Array:
        inner, paused = states // 3, states % 3 == PAUSED
        if not paused.any():
            return self.scorer.scores(inner)
        found = [self._after[state] for state in inner[paused].tolist()]
        inner[paused] = [after for after, _ in found]
        scores = self.scorer.scores(inner).copy()
        added = np.array([added for _, added in found], np.float32)
        scores[paused] += added[:, None]
        scores[paused, self.separator], scores[paused, self.blank] = added, 0.0
        return scores

    def advance(self, states: Array, labels: Array) -> Array:
        inner, own = states // 3, labels == self.separator
        behind = (states % 3 == PAUSED) & ~own  # the separator is read first
        inner[behind] = [self._after[state][0] for state in inner[behind].tolist()]
        return 3 * self.scorer.advance(inner, labels) + np.where(own, SEPARATED, WITHIN)

    def final(self, states: Array) -> Array:
        return self.scorer.final(states // 3)

    def keep(self, states: Array) -> None:
        paused = set((states[states % 3 == PAUSED] // 3).tolist())
        self._after = {state: self._after[state] for state in paused}
        later = [after for after, added in self._after.values() if added > -math.inf]
        self.scorer.keep(np.unique(np.concatenate([states // 3, np.array(later, np.int64)])))

    def paused(self, states: Array) -> Array:
        due = states % 3 == WITHIN
        for state in set((states[due] // 3).tolist()) - self._after.keys():
            inner = np.array([state], np.int64)
            added = float(self.scorer.scores(inner)[0, self.separator])
            after = self.scorer.advance(inner, np.array([self.separator], np.int64)) if added > -math.inf else inner
            self._after[state] = int(after[0]), added
        return states + due * (PAUSED - WITHIN)


def separating(scorer: Scorer, separator: int | None, blank: int) -> Scorer:
    """Return a scorer that reads `separator` at pauses; `scorer` where nothing separates words, or it does already."""
    if separator is None or isinstance(scorer, SeparatingScorer):
        return scorer
    return SeparatingScorer(scorer, separator, blank)
