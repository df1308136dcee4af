"""Scorers whose states are label sequences: each is a network's state, computed once when it is first asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from residualformer.context.scorer import Array, Scorer

S = TypeVar("S")


class _Node(Generic[S]):
    """A label sequence: the one before, its last label, and, once computed, the network's output and state."""

    __slots__ = ("before", "found", "label")

    def __init__(self, before: _Node[S] | None, label: int) -> None:
        self.before, self.label = before, label
        self.found: tuple[Array, S] | None = None


class RememberedScorer(Scorer, Generic[S]):
    """A scorer by a network that reads one label after another; what is asked for together is one batch.

    Args:
        output: the network's output (O,) for the empty sequence.
        state: its state after that.
    """

    def __init__(self, output: Array, state: S) -> None:
        first: _Node[S] = _Node(None, 0)
        first.found = output, state
        self._nodes, self._shape = {0: first}, output.shape
        self._numbers: dict[tuple[int, int], int] = {}  # of a sequence, by the one before and the last label
        self._next = 1

    @abstractmethod
    def extend(self, labels: Sequence[int], states: Sequence[S]) -> list[tuple[Array, S]]:
        """Return the outputs (O,) and states after one more label each."""

    def start(self) -> int:
        return 0

    def advance(self, states: Array, labels: Array) -> Array:
        return np.array([self._number(*pair) for pair in zip(states.tolist(), labels.tolist(), strict=True)], np.int64)

    def keep(self, states: Array) -> None:
        self._nodes = {state: self._nodes[state] for state in {0, *states.tolist()}}
        self._numbers = {
            pair: number for pair, number in self._numbers.items() if number in self._nodes and pair[0] in self._nodes
        }

    def outputs(self, states: Array) -> Array:
        """Return the network's outputs (M, O) for `states` (M,)."""
        nodes = [self._nodes[state] for state in states.tolist()]
        while missing := list(dict.fromkeys(first for node in nodes if (first := _first_missing(node)) is not None)):
            before = [node.before.found[1] for node in missing if node.before and node.before.found]
            found = self.extend([node.label for node in missing], before)
            for node, each in zip(missing, found, strict=True):
                node.found, node.before = each, None  # which frees the sequence before, unless it lives
        rows = [node.found[0] for node in nodes if node.found]
        return np.array(rows).reshape(len(rows), *self._shape)

    def _number(self, state: int, label: int) -> int:
        number = self._numbers.get((state, label))
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[state, label], self._nodes[number] = number, _Node(self._nodes[state], label)
        return number


def _first_missing(node: _Node[S]) -> _Node[S] | None:
    """Return the shortest sequence that is to be computed for that of `node`, None if there is none."""
    missing = None
    while node.found is None:
        missing = node
        assert node.before is not None
        node = node.before
    return missing
