"""Beam search that sums over alignments, as `decode/beam.py` defines it, in numpy.

It finds the same hypotheses with less work: the predictor runs once for each label sequence instead of each time that
the sequence is proposed, and predictor and joiner see the hypotheses of all streams in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.hypothesis import Hypothesis
from residualformer.runtime.model import Array, ExportedModel
from residualformer.runtime.search import Predicted, Search, SearchState

Path = tuple[Any, int, int] | None  # (the path before, label, encoder frame); None is the empty one
_MASK = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class Prefix:
    """A sequence of `length` labels."""

    score: float  # its log-probability, with the rewards of its labels
    key: int  # equal for equal sequences, see `extend_key`
    length: int
    path: Path  # the likeliest alignment
    predicted: Predicted | None  # None until the predictor has run

    def prediction(self) -> Predicted:
        """Return `predicted` of a prefix whose predictor has run."""
        assert self.predicted is not None
        return self.predicted


class BeamState(SearchState):
    """A stream: the W sequences alive, best score first, and the predictor's outputs for them and their proposals."""

    def __init__(self, predicted: Predicted, decode: DecodeConfig):
        self.decode = decode
        self.alive = [Prefix(0.0, 0, 0, None, predicted)]
        self.predictions: dict[int, Predicted] = {0: predicted}  # by key; the most recently used come last
        self.num_frames = 0

    def nbest(self, most: int = 1) -> list[Hypothesis]:
        return [_trace(prefix.path, self._logp(prefix)) for prefix in self._best_first()[:most]]

    def last_label(self) -> int | None:
        path = self._best_first()[0].path
        return None if path is None else path[2]

    def _logp(self, prefix: Prefix) -> float:
        return prefix.score - self.decode.token_reward * prefix.length

    def _best_first(self) -> list[Prefix]:
        if not self.decode.length_norm:
            return self.alive
        return sorted(self.alive, key=lambda prefix: self._logp(prefix) / (prefix.length + 1), reverse=True)


class _Frame:
    """The search of one frame of one stream; `alive` and `done` are A and B of `decode/beam.py`."""

    def __init__(self, state: BeamState, encoded: Array):
        self.state, self.encoded = state, encoded
        self.alive: list[Prefix] = state.alive
        self.done: dict[int, Prefix] = {}

    def scores(self) -> Array:
        """Return the scores (A,) of `alive`."""
        return np.array([prefix.score for prefix in self.alive])

    def stop_here(self, scores: Array) -> None:
        """Add `alive`, with the new scores (A,) after a blank, to B; prefixes are changed in place."""
        for prefix, score in zip(self.alive, scores.tolist(), strict=True):
            same = self.done.setdefault(prefix.key, prefix)
            if same is prefix:
                prefix.score = score
                continue
            if score > same.score:
                same.path = prefix.path
            same.score = _log_add(same.score, score)

    def write(self, scores: Array, width: int) -> list[tuple[Prefix, Prefix, int]]:
        """Replace `alive` by the W best one-label continuations that can still enter the beam.

        Args:
            scores: (A, V) of all continuations; those by the blank are -inf.

        Returns:
            (prefix, new prefix, label) of the continuations for which the predictor has not run yet.
        """
        num_labels, scores = scores.shape[1], scores.ravel()
        index = np.flatnonzero(scores > self._worst(width))
        if len(index) > width:
            index = index[np.argpartition(scores[index], -width)[-width:]]
        parents, labels = np.divmod(index, num_labels)
        alive, unknown = [], []
        for i, label, score in zip(parents.tolist(), labels.tolist(), scores[index].tolist(), strict=True):
            parent = self.alive[i]
            key = extend_key(parent.key, label)
            predicted = self.state.predictions.pop(key, None)
            new = Prefix(score, key, parent.length + 1, (parent.path, label, self.state.num_frames), predicted)
            alive.append(new)
            if predicted is None:
                unknown.append((parent, new, label))
            else:
                self.state.predictions[key] = predicted  # now the most recently used
        self.alive = alive
        return unknown

    def finish(self, width: int, keep: int) -> None:
        """Pass the W best of `done` to the next frame; keep the `keep` predictor outputs used last."""
        state = self.state
        state.alive = sorted(self.done.values(), key=attrgetter("score"), reverse=True)[:width]
        state.num_frames += 1
        excess = len(state.predictions) - keep
        if excess > 0:
            alive = {prefix.key for prefix in state.alive}
            for key in list(islice((key for key in state.predictions if key not in alive), excess)):
                del state.predictions[key]

    def _worst(self, width: int) -> float:
        if len(self.done) < width:
            return -math.inf
        return sorted([prefix.score for prefix in self.done.values()])[-width]


class BeamSearch(Search[BeamState]):
    """Beam search of many streams, which keeps W = `decode.beam` hypotheses of each after each frame.

    Args:
        keep: predictor outputs that a stream remembers, beside those of living hypotheses; default 4 W.
    """

    def __init__(self, model: ExportedModel, blank: int, decode: DecodeConfig, keep: int | None = None):
        super().__init__(model, blank, decode)
        self.keep = 4 * decode.beam if keep is None else keep

    def start(self) -> BeamState:
        return BeamState(self._first, self.decode)

    def advance(self, states: Sequence[BeamState], encoded: Sequence[Array]) -> None:
        for t in range(max(map(len, encoded), default=0)):
            frames = [_Frame(state, x[t]) for state, x in zip(states, encoded, strict=True) if t < len(x)]
            running, symbols = frames, 0
            while running:
                running = self._round(running, last=symbols == self.decode.max_symbols)
                symbols += 1
            for frame in frames:
                frame.finish(self.decode.beam, self.keep)

    def _round(self, frames: list[_Frame], last: bool) -> list[_Frame]:
        """Let the prefixes of each of `frames` write a blank or one more label; return the frames that go on."""
        sizes = [len(frame.alive) for frame in frames]
        encoded = _rows([frame.encoded for frame in frames]).repeat(sizes, axis=0)
        predicted = _rows([prefix.prediction().output for frame in frames for prefix in frame.alive])
        logp = self._log_probabilities(encoded, predicted)
        blank = logp[:, self.blank].copy()
        logp[:, self.blank] = -np.inf
        unknown, start = [], 0
        for frame, size in zip(frames, sizes, strict=True):
            rows, scores = slice(start, start + size), frame.scores()
            start += size
            frame.stop_here(scores + blank[rows])
            if not last:
                longer = scores[:, None] + self.decode.token_reward + logp[rows]
                unknown += [(frame.state, *new) for new in frame.write(longer, self.decode.beam)]
        if unknown:
            self._predict(unknown)
        return [] if last else [frame for frame in frames if frame.alive]

    def _predict(self, unknown: list[tuple[BeamState, Prefix, Prefix, int]]) -> None:
        states = [parent.prediction().state for _, parent, *_ in unknown]
        found = self.model.predict([label for *_, label in unknown], states)
        for (state, _, prefix, _), new in zip(unknown, found, strict=True):
            prefix.predicted = state.predictions[prefix.key] = Predicted(*new)


def _rows(vectors: list[Array]) -> Array:
    """Stack vectors, in half the time of np.stack."""
    return np.concatenate(vectors).reshape(len(vectors), -1)


def _trace(path: Path, score: float) -> Hypothesis:
    """Return the hypothesis at the end of `path`."""
    tokens, frames = [], []
    while path is not None:
        path, label, frame = path
        tokens.append(label)
        frames.append(frame)
    return Hypothesis(tokens[::-1], frames[::-1], score)


def extend_key(key: int, label: int) -> int:
    """Return the 64-bit key of `sequence + label` from that of `sequence`, by splitmix64 (Steele et al., 2014).

    Equal sequences have equal keys; two different ones collide with a chance of about 2^-64.
    """
    key = (key ^ (label + 1)) * 0x9E3779B97F4A7C15 & _MASK
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    key = (key ^ key >> 27) * 0x94D049BB133111EB & _MASK
    return key ^ key >> 31


def _log_add(a: float, b: float) -> float:
    """Return log(e^a + e^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high)) if low > -math.inf else high
