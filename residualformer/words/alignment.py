"""The posterior over the alignments of a label sequence in the lattice of a transducer, by forward and backward scores.

A node (t, u) of the lattice stands for u labels written before frame t is left (Graves, 2012, section 2.4). A blank
leads from (t, u) to (t + 1, u), label u + 1 to (t, u + 1). A path from (0, 0) to (T, U) is an alignment; the posterior
of label u + 1 at frame t is the share of the probability of all paths that take that step. Paths may write any number
of labels at a frame, even if the search allows only `max_symbols`.

Labels nearly always lie close to where the search wrote them, so only a band of the lattice is computed: the paths that
write each label at most `reach` frames before or after that.

Where the search started the predictor afresh (`decode.restart_s`), so does the lattice: the labels after a pause do not
depend on those before it, and nodes after the end of a pause have the first output of the predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residualformer.hypothesis import Hypothesis

Array = NDArray[Any]

# New logits (M, V) of M nodes, of their frames (M,) and of the numbers of labels written before (M,), both int64
Logits = Callable[[Array, Array], Array]

REACH_S = 0.2  # of the band; with twice as much no time changes by a millisecond
NODES_AT_ONCE = 2048  # whose logits are in memory


@dataclass(frozen=True)
class Alignment:
    """The posterior over the alignments of U labels.

    Attributes:
        frames: (U,) float64, the expected frame at which each label was written.
        log_probabilities: (U,) float64, the logarithm of the expected probability of each label, given that the model
            writes a label and no blank, over the frames at which it may have been written.
        score: the log-probability of the labels, summed over all alignments in the band.
    """

    frames: Array
    log_probabilities: Array
    score: float


class Memory:
    """What the predictor remembers at the nodes of the lattice of U labels, which a search wrote at `frames`.

    Args:
        pause: frames without a label after which it starts afresh; 0 is never.
    """

    def __init__(self, frames: Sequence[int], pause: int) -> None:
        count = len(frames)
        gaps = [u for u in range(1, count) if pause and frames[u] - frames[u - 1] > pause]
        self.parts = list(pairwise([0, *gaps, count]))  # of the labels, each between two starts
        never = np.iinfo(np.int64).max
        self._last = np.array([never, *(frame + pause if pause else never for frame in frames)], np.int64)

    def outputs(self, predict: Callable[[int, int], Array]) -> Array:
        """Return the predictor's output (U + 1, J) after each number of labels.

        Args:
            predict: its output (n + 1, J) after each number of the n labels from one place up to another.
        """
        found = [predict(first, end) for first, end in self.parts]
        return np.concatenate([found[0], *(each[1:] for each in found[1:])])

    def rows(self, times: Array, written: Array) -> Array:
        """Return for nodes (M,) the row of `outputs`: that of the labels written, or the first after a pause."""
        return np.where(times > self._last[written], 0, written)


def with_inserted(alignment: Alignment, hypothesis: Hypothesis) -> Alignment:
    """Return the alignment of what a search wrote as one of all tokens.

    An inserted one has the frame of the token that it stands before, and is as certain as can be: no label was written.
    """
    if not hypothesis.inserted:
        return alignment
    count = len(hypothesis.tokens)
    frames, chances = np.zeros(count), np.zeros(count)
    frames[hypothesis.written], chances[hypothesis.written] = alignment.frames, alignment.log_probabilities
    for place in reversed(hypothesis.inserted):
        frames[place] = frames[place + 1]
    return Alignment(frames, chances, alignment.score)


@dataclass(frozen=True)
class _Row:
    """The nodes (t, u) of the band for one u, `first` <= t < `first` + n; log-probabilities of blank and next label."""

    first: int
    blank: Array
    label: Array  # empty for the last row, after which there is no label

    @cached_property
    def passed(self) -> Array:
        """Return log P (n + 1,) of blanks only, from the first node to each node and out of the last one."""
        return np.concatenate([[0.0], np.cumsum(self.blank)])


def align(
    logits: Logits,
    labels: Sequence[int],
    frames: Sequence[int],
    num_frames: int,
    blank: int,
    reach: int | None = None,
    blank_penalty: float = 0.0,
) -> Alignment:
    """Return the posterior over the alignments of `labels` to `num_frames` >= 1 frames.

    Args:
        logits: the joiner's output at any nodes of the lattice.
        labels: U labels.
        frames: the frame at which a search wrote each of them; not decreasing.
        blank: the id of the blank.
        reach: frames of the band on either side of those; None for the whole lattice.
        blank_penalty: subtracted from the logit of the blank, as in the search.
    """
    rows = _rows(logits, labels, _band(frames, num_frames, reach), blank, blank_penalty)
    forward, entering = [], np.zeros(1)  # log P of the paths to each node, and of those that enter its row there
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        forward.append(_spread(entering, row))
        if after is not None:
            entering = _at(forward[-1][:-1] + row.label, row.first, after)
    score = float(forward[-1][-1])
    backward = _remaining(rows[-1], None)
    expected, chances = np.zeros(len(labels)), np.zeros(len(labels))
    for u in range(len(labels) - 1, -1, -1):
        row = rows[u]
        rest = row.label + _at(backward, rows[u + 1].first, row)
        posterior = np.exp(forward[u][:-1] + rest - score)
        posterior /= posterior.sum()
        expected[u] = posterior @ np.arange(row.first, row.first + len(posterior))
        chances[u] = posterior @ np.exp(np.minimum(row.label - _log_not(row.blank), 0))
        backward = _remaining(row, rest)
    return Alignment(expected, np.log(np.maximum(chances, 1e-300)), score)


def _band(frames: Sequence[int], num_frames: int, reach: int | None) -> list[tuple[int, int]]:
    """Return the first node's frame and the one after the last node's, for each number of labels written."""
    if reach is None:
        return [(0, num_frames)] * (len(frames) + 1)
    first = [0, *(max(frame - reach, 0) for frame in frames)]
    last = [*(min(frame + reach + 1, num_frames) for frame in frames), num_frames]
    return list(zip(first, last, strict=True))


def _rows(
    logits: Logits, labels: Sequence[int], band: list[tuple[int, int]], blank: int, blank_penalty: float
) -> list[_Row]:
    """Compute the log-probabilities of all nodes, some at once."""
    sizes = [end - first for first, end in band]
    times = np.concatenate([np.arange(first, end) for first, end in band])
    written = np.repeat(np.arange(len(band)), sizes)
    next_label = np.array([*labels, blank], np.int64)[written]
    parts = []
    for start in range(0, len(times), NODES_AT_ONCE):
        part = slice(start, start + NODES_AT_ONCE)
        found = logits(times[part], written[part])
        found[:, blank] -= blank_penalty
        found -= np.maximum.reduce(found, axis=1, keepdims=True)
        total = np.log(np.add.reduce(np.exp(found), axis=1))
        parts.append((found[:, blank] - total, found[np.arange(len(found)), next_label[part]] - total))
    blanks, nexts = (np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True))
    ends = np.cumsum(sizes)
    places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [_Row(first, blanks[place], nexts[place]) for (first, _), place in zip(band, places, strict=True)]


def _spread(entering: Array, row: _Row) -> Array:
    """Return log P (n + 1,) of the paths to each node of a row, and out of the last one, which enter it by (m,)."""
    passed, inflow = row.passed, np.full(len(row.blank) + 1, -np.inf)
    inflow[: len(entering)] = entering
    return passed + np.logaddexp.accumulate(inflow - passed)


def _remaining(row: _Row, leaving: Array | None) -> Array:
    """Return log P (n,) of the paths from each node of a row to the end, where they leave it by `leaving` (n,).

    From the last row, for which it is None, they leave by the blank of the last frame.
    """
    passed = row.passed
    if leaving is None:
        return passed[-1] - passed[:-1]
    return np.logaddexp.accumulate((leaving + passed[:-1])[::-1])[::-1] - passed[:-1]


def _at(values: Array, first: int, row: _Row) -> Array:
    """Return `values` (n,) of frames from `first` on at the frames of a row (m,); -inf where there are none."""
    found = np.full(len(row.blank), -np.inf)
    start, end = max(first, row.first), min(first + len(values), row.first + len(row.blank))
    found[start - row.first : end - row.first] = values[start - first : end - first]
    return found


def _log_not(logp: Array) -> Array:
    """Return log(1 - e^logp) of log-probabilities; no less than that of the smallest float64 that 1 can differ by."""
    return np.log(np.maximum(-np.expm1(logp), 1e-16))
