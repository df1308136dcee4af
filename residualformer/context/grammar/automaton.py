"""Deterministic, minimal automata as arrays, made by kaldifst (OpenFst)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np

from residualformer.context.scorer import Array
from residualformer.errors import UserError
from residualformer.optional import optional

MOST_STATES = 1_000_000


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton with S states and A arcs, sorted by state and label; it starts in state 0.

    The arcs of state s are those from `offsets[s]` to `offsets[s + 1]` (S + 1,) int64, with `labels` (A,) int32 from 1
    on and `targets` (A,) int32; `final` (S,) bool tells in which states it may end. From each state an end is reached.
    """

    offsets: Array
    labels: Array
    targets: Array
    final: Array

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.final)

    def arcs(self, state: int) -> list[tuple[int, int]]:
        """Return label and target of each arc of a state."""
        rows = slice(self.offsets[state], self.offsets[state + 1])
        return list(zip(self.labels[rows].tolist(), self.targets[rows].tolist(), strict=True))

    def count(self) -> int | None:
        """Return the number of sequences that the automaton accepts; None if they are without end."""
        successors = {state: {target for _, target in self.arcs(state)} for state in range(self.num_states)}
        counts: dict[int, int] = {}
        try:
            for state in TopologicalSorter(successors).static_order():  # what a state leads to comes before it
                counts[state] = int(self.final[state]) + sum(counts[target] for _, target in self.arcs(state))
        except CycleError:
            return None
        return counts[0]


def determinize(sources: Array, labels: Array, targets: Array, num_states: int, start: int, end: int) -> Automaton:
    """Return the smallest deterministic automaton for the sequences of labels from `start` to `end`.

    Args:
        sources, labels, targets: (A,) the arcs; the label 0 is none.

    Raises:
        UserError: kaldifst is not installed, or the automaton has more than a million states.
    """
    kaldifst = optional("kaldifst")
    fst = kaldifst.StdVectorFst()
    for _ in range(num_states):
        fst.add_state()
    fst.start = start
    fst.set_final(end, 0.0)
    for source, label, target in zip(sources.tolist(), labels.tolist(), targets.tolist(), strict=True):
        fst.add_arc(source, kaldifst.StdArc(label, 0, 0.0, target))
    try:
        too_large = kaldifst.determinize_star(fst, max_states=MOST_STATES)
    except MemoryError:
        too_large = True
    if too_large:
        raise UserError(
            f"the grammar needs more than {MOST_STATES} states, because many of its sentences begin alike: "
            "shorten repeats, or put words before them that tell them apart."
        )
    kaldifst.minimize(fst)
    return _from_arcs(
        [(s, arc.ilabel, arc.nextstate) for s in range(fst.num_states) for arc in kaldifst.ArcIterator(fst, s)],
        [s for s in range(fst.num_states) if fst.final(s).value == 0.0],
        fst.num_states,
        fst.start,
    )


def _from_arcs(arcs: Iterable[tuple[int, int, int]], final: Iterable[int], num_states: int, start: int) -> Automaton:
    """Return the automaton with its states numbered anew, `start` as 0."""
    number = np.arange(num_states)
    number[[0, start]] = number[[start, 0]]
    table = np.array(list(arcs), np.int64).reshape(-1, 3)
    sources, labels, targets = number[table[:, 0]], table[:, 1], number[table[:, 2]]
    order = np.lexsort((labels, sources))
    offsets = np.searchsorted(sources[order], np.arange(num_states + 1))
    ends = np.zeros(num_states, bool)
    ends[number[list(final)]] = True
    return Automaton(offsets, labels[order].astype(np.int32), targets[order].astype(np.int32), ends)
