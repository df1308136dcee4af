"""A grammar in a search: labels that no sentence of the grammar has at that place are forbidden."""

from __future__ import annotations

import numpy as np

from residualformer.constants import BLANK
from residualformer.context.grammar.automaton import Automaton
from residualformer.context.scorer import Array, Scorer


class GrammarScorer(Scorer):
    """The scorer of an automaton over tokens. It keeps nothing about streams: any number of them share it.

    A state is one of the automaton's, S of them; state S stands for what the grammar does not have.

    Args:
        vocab_size: V.
    """

    def __init__(self, automaton: Automaton, vocab_size: int) -> None:
        self.automaton, self.vocab_size = automaton, vocab_size
        sources = np.repeat(np.arange(automaton.num_states), np.diff(automaton.offsets))
        self._offsets = np.append(automaton.offsets, automaton.offsets[-1])
        self._keys = sources * vocab_size + automaton.labels  # ascending
        self._targets = np.append(automaton.targets, 0).astype(np.int64)
        self._final = np.append(np.where(automaton.final, 0.0, -np.inf), -np.inf).astype(np.float32)

    def start(self) -> int:
        return 0

    def scores(self, states: Array) -> Array:
        first, counts = self._offsets[states], self._offsets[states + 1] - self._offsets[states]
        rows = np.repeat(np.arange(len(states)), counts)
        before = np.cumsum(counts) - counts
        arcs = np.arange(len(rows)) - np.repeat(before - first, counts)
        scores = np.full((len(states), self.vocab_size), -np.inf, np.float32)
        scores[:, BLANK] = 0.0
        scores[rows, self.automaton.labels[arcs]] = 0.0
        return scores

    def advance(self, states: Array, labels: Array) -> Array:
        keys = states * self.vocab_size + labels
        found = np.searchsorted(self._keys, keys)
        known = np.append(self._keys, -1)[found] == keys
        return np.where(known, self._targets[found], self.automaton.num_states)

    def final(self, states: Array) -> Array:
        return self._final[states]
