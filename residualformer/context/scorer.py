"""What a search asks of its context: scores of the labels that may come next, in PyTorch and without it.

A search orders its hypotheses by the model's log-probability, `token_reward` for each label and what the scorer adds:

    score(y) = log P(y | x) + token_reward |y| + sum_u scores(state of y_1 ... y_{u-1})[y_u]   + final(state of y)

where `final` counts at the end of the utterance only. Labels have the ids of training: blank is 0.
Shapes: M hypotheses, V labels with the blank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residualformer.constants import BLANK
from residualformer.context.verdict import Heard, Verdict

Array = NDArray[Any]


class Scorer(ABC):
    """Adds to the log-probability of label sequences.

    A state, an int >= 0, stands for a sequence of labels from the start of a stream; equal sequences have equal states
    as long as both are asked for. A scorer belongs to one stream, unless it keeps nothing about streams.
    """

    @abstractmethod
    def start(self) -> int:
        """Return the state of the empty sequence."""

    @abstractmethod
    def scores(self, states: Array) -> Array:
        """Return what is added when a label is written after `states` (M,) int64: (M, V) float32, not to be changed.

        -inf forbids a label; the column of the blank is 0.
        """

    @abstractmethod
    def advance(self, states: Array, labels: Array) -> Array:
        """Return the states (M,) int64 of the sequences of `states` (M,) with one more of `labels` (M,), no blanks."""

    @abstractmethod
    def final(self, states: Array) -> Array:
        """Return what is added at the end of the utterance, (M,) float32; -inf: it must not end here."""

    def paused(self, states: Array) -> Array:
        """Return the states (M,) int64 of the same sequences after a pause at which the predictor starts afresh."""
        return states

    def keep(self, states: Array) -> None:  # noqa: B027 # most scorers have nothing to forget
        """Take note that only `states` (M,) of this stream will be asked for again: others may be forgotten."""


class Context(ABC):
    """Makes the scorers of any number of streams, and holds what these share."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Return the scorer of a new stream."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return JSON values that decide what is added, under the name of the kind."""

    @property
    def judges(self) -> bool:
        """Whether results are judged, for which a search without the context runs beside."""
        return False

    def judge(self, heard: Heard) -> Verdict | None:
        """Judge the result of an utterance or segment that has ended; None if this context judges nothing."""
        return None


class Sum(Scorer):
    """The sum of several scorers; a state stands for one state of each."""

    def __init__(self, parts: Sequence[Scorer]) -> None:
        self.parts = tuple(parts)
        self._states: dict[int, tuple[int, ...]] = {}
        self._numbers: dict[tuple[int, ...], int] = {}
        self._next = 0

    def start(self) -> int:
        return self._number(tuple(part.start() for part in self.parts))

    def scores(self, states: Array) -> Array:
        columns = self._columns(states)
        total = self.parts[0].scores(columns[0])
        for part, column in zip(self.parts[1:], columns[1:], strict=True):
            total = total + part.scores(column)
        return total

    def advance(self, states: Array, labels: Array) -> Array:
        columns = self._columns(states)
        found = [part.advance(column, labels).tolist() for part, column in zip(self.parts, columns, strict=True)]
        return np.array([self._number(each) for each in zip(*found, strict=True)], np.int64)

    def final(self, states: Array) -> Array:
        total = np.zeros(len(states), np.float32)
        for part, column in zip(self.parts, self._columns(states), strict=True):
            total = total + part.final(column)
        return total

    def keep(self, states: Array) -> None:
        self._states = {state: self._states[state] for state in states.tolist()}
        self._numbers = {each: state for state, each in self._states.items()}
        for part, column in zip(self.parts, self._columns(states), strict=True):
            part.keep(column)

    def _columns(self, states: Array) -> list[Array]:
        """Return the states (M,) of each part."""
        rows = [self._states[state] for state in states.tolist()]
        return list(np.array(rows, np.int64).reshape(len(rows), len(self.parts)).T)

    def _number(self, states: tuple[int, ...]) -> int:
        number = self._numbers.get(states)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[states], self._states[number] = number, states
        return number


class JointContext(Context):
    """Several contexts at once, whose scores add up."""

    def __init__(self, parts: Sequence[Context]) -> None:
        self.parts = tuple(parts)

    def scorer(self) -> Scorer:
        return self.parts[0].scorer() if len(self.parts) == 1 else Sum([part.scorer() for part in self.parts])

    def describe(self) -> dict[str, Any]:
        return {key: value for part in self.parts for key, value in part.describe().items()}

    @property
    def judges(self) -> bool:
        return any(part.judges for part in self.parts)

    def judge(self, heard: Heard) -> Verdict | None:
        """Return the verdict of the part that judges; there is one at most."""
        return next((verdict for part in self.parts if (verdict := part.judge(heard))), None)


def joint(parts: Iterable[Context | None]) -> Context | None:
    """Return the context of all parts that are there, None if none is."""
    there = [part for part in parts if part]
    return JointContext(there) if there else None


class BlankLast(Scorer):
    """A scorer for labels in the numbering of folders that have the blank last: each id is one less."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def start(self) -> int:
        return self.scorer.start()

    def scores(self, states: Array) -> Array:
        scores = self.scorer.scores(states)
        return np.concatenate([scores[:, 1:], scores[:, :1]], axis=1)

    def advance(self, states: Array, labels: Array) -> Array:
        return self.scorer.advance(states, labels + 1)

    def final(self, states: Array) -> Array:
        return self.scorer.final(states)

    def keep(self, states: Array) -> None:
        self.scorer.keep(states)


def numbered(scorer: Scorer, blank: int) -> Scorer:
    """Return the scorer for a model whose blank has the id `blank`, 0 or the last one."""
    return scorer if blank == BLANK else BlankLast(scorer)


def training_order(pieces: Sequence[str], blank: int) -> list[str]:
    """Return the pieces of an exported folder, whose blank has the id `blank`, in the numbering of training."""
    others = [piece for index, piece in enumerate(pieces) if index != blank]
    return [*others[:BLANK], pieces[blank], *others[BLANK:]]


class Batch:
    """The scorers of N streams, asked together; what several streams share is asked once.

    Streams (M,) int64 are numbers from 0 to N - 1, of the hypotheses that are asked for.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = tuple(scorers)
        distinct = {id(scorer): scorer for scorer in scorers}
        self._distinct = list(distinct.values())
        number = {key: n for n, key in enumerate(distinct)}
        self._owner = np.array([number[id(scorer)] for scorer in scorers], np.int64)

    def start(self) -> Array:
        """Return the states (N,) of the empty sequences."""
        return np.array([scorer.start() for scorer in self.scorers], np.int64)

    def scores(self, streams: Array, states: Array) -> Array:
        """Return `Scorer.scores` (M, V)."""
        return self._each(streams, lambda scorer, rows: scorer.scores(states[rows]))

    def advance(self, streams: Array, states: Array, labels: Array) -> Array:
        """Return `Scorer.advance` (M,)."""
        return self._each(streams, lambda scorer, rows: scorer.advance(states[rows], labels[rows]))

    def final(self, streams: Array, states: Array) -> Array:
        """Return `Scorer.final` (M,)."""
        return self._each(streams, lambda scorer, rows: scorer.final(states[rows]))

    def paused(self, streams: Array, states: Array) -> Array:
        """Return `Scorer.paused` (M,)."""
        return self._each(streams, lambda scorer, rows: scorer.paused(states[rows]))

    def keep(self, states: Sequence[Array]) -> None:
        """Call `Scorer.keep` for each of the first streams."""
        for scorer, each in zip(self.scorers, states, strict=False):
            scorer.keep(each)

    def _each(self, streams: Array, ask: Callable[[Scorer, Array | slice], Array]) -> Array:
        """Return the answers for all hypotheses, in their order."""
        if len(self._distinct) == 1:
            return ask(self._distinct[0], slice(None))
        owners = self._owner[streams]
        order = np.argsort(owners, kind="stable")
        present, starts = np.unique(owners[order], return_index=True)
        parts = np.split(order, starts[1:])
        found = np.concatenate([ask(self._distinct[n], rows) for n, rows in zip(present, parts, strict=True)])
        answers = np.empty_like(found)
        answers[order] = found
        return answers
