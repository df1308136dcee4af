"""Beam search that sums over alignments, as `decode/beam.py` defines it, in numpy.

It finds the same hypotheses with less work: the predictor runs once for each label sequence instead of each time that
the sequence is proposed, and predictor and joiner see the hypotheses of all streams in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Scorer
from residualformer.hypothesis import Hypothesis, separated
from residualformer.runtime.model import Array, StreamingModel
from residualformer.runtime.search import NO_PAUSES, Pauses, Predicted, Search, SearchState

Path = tuple[Any, int, int] | None  # (the path before, label, encoder frame); None is the empty one
_MASK = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class Prefix:
    """A sequence of `length` labels."""

    score: float  # its log-probability, with the rewards of its labels and its context
    key: int  # equal for equal sequences, see `extend_key`
    length: int
    path: Path  # the likeliest alignment
    predicted: Predicted | None  # None until the predictor has run
    context: float = 0.0  # what the scorer added
    scorer_state: int = 0
    is_fresh: bool = False  # the predictor has seen no label, at the start or since a pause

    def merge(self, score: float, path: Path) -> None:
        """Add the alignments of the same labels with `score`, of which `path` is the likeliest."""
        if score > self.score:
            self.path = path
        self.score = _log_add(self.score, score)

    def prediction(self) -> Predicted:
        """Return `predicted` of a prefix whose predictor has run."""
        assert self.predicted is not None
        return self.predicted


class BeamState(SearchState):
    """A stream: the W sequences alive, best score first, and the predictor's outputs for them and their proposals."""

    def __init__(
        self, predicted: Predicted, decode: DecodeConfig, scorer: Scorer | None = None, pauses: Pauses = NO_PAUSES
    ):
        self.decode, self.scorer, self.pauses = decode, scorer, pauses
        start = scorer.start() if scorer else 0
        self.alive = [Prefix(0.0, 0, 0, None, predicted, scorer_state=start, is_fresh=True)]
        self.predictions: dict[int, Predicted] = {0: predicted}  # by key; the most recently used come last
        self.num_frames = 0

    def nbest(self, most: int = 1, ended: bool = False) -> list[Hypothesis]:
        prefixes = self._best_first(self._ended() if ended and self.scorer else self.alive)
        found = [_trace(prefix.path, self._logp(prefix), prefix.context) for prefix in prefixes[:most]]
        return [separated(each, *self.pauses) for each in found]

    def last_label(self) -> int | None:
        path = self._best_first(self.alive)[0].path
        return None if path is None else path[2]

    def _ended(self) -> list[Prefix]:
        """Return the prefixes that may end here, with what the scorer adds for it, best first."""
        assert self.scorer is not None
        final = self.scorer.final(scorer_states(self.alive)).tolist()
        ended = [
            replace(prefix, score=prefix.score + added, context=prefix.context + added)
            for prefix, added in zip(self.alive, final, strict=True)
            if added > -math.inf
        ]
        return sorted(ended, key=attrgetter("score"), reverse=True)

    def _logp(self, prefix: Prefix) -> float:
        return prefix.score - self.decode.token_reward * prefix.length - prefix.context

    def _best_first(self, prefixes: list[Prefix]) -> list[Prefix]:
        if not self.decode.length_norm:
            return prefixes
        return sorted(prefixes, key=self._score_per_label, reverse=True)

    def _score_per_label(self, prefix: Prefix) -> float:
        return (self._logp(prefix) + prefix.context) / (prefix.length + 1)


class _Frame:
    """The search of one frame of one stream; `alive` and `done` are A and B of `decode/beam.py`."""

    def __init__(self, state: BeamState, encoded: Array):
        self.state, self.encoded = state, encoded
        self.alive: list[Prefix] = state.alive
        self.done: dict[int, Prefix] = {}

    def scores(self) -> Array:
        """Return the scores (A,) of `alive`."""
        return np.array([prefix.score for prefix in self.alive])

    def added(self) -> Array | None:
        """Return what the stream's scorer adds for each label after `alive` (A, V)."""
        return None if self.state.scorer is None else self.state.scorer.scores(scorer_states(self.alive))

    def stop_here(self, scores: Array) -> None:
        """Add `alive`, with the new scores (A,) after a blank, to B; prefixes are changed in place."""
        for prefix, score in zip(self.alive, scores.tolist(), strict=True):
            same = self.done.setdefault(prefix.key, prefix)
            if same is prefix:
                prefix.score = score
                continue
            same.merge(score, prefix.path)

    def write(self, scores: Array, width: int, added: Array | None = None) -> list[tuple[Prefix, Prefix, int]]:
        """Replace `alive` by the W best one-label continuations that can still enter the beam.

        Args:
            scores: (A, V) of all continuations; those by the blank are -inf.
            added: (A, V) what the scorer added to them.

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
        if added is not None and alive:
            self._advance_scorer(alive, parents, labels, added)
        self.alive = alive
        return unknown

    def _advance_scorer(self, longer: list[Prefix], parents: Array, labels: Array, added: Array) -> None:
        """Set the context of prefixes that write `labels` (M,) after those at `parents` (M,) of `alive`."""
        assert self.state.scorer is not None
        states = self.state.scorer.advance(scorer_states(self.alive)[parents], labels)
        for prefix, i, state, more in zip(
            longer, parents.tolist(), states.tolist(), added[parents, labels].tolist(), strict=True
        ):
            prefix.context, prefix.scorer_state = self.alive[i].context + more, state

    def finish(self, width: int, keep: int) -> None:
        """Pass the W best of `done` to the next frame; keep the `keep` predictor outputs used last."""
        state = self.state
        state.alive = sorted(self.done.values(), key=attrgetter("score"), reverse=True)[:width]
        state.num_frames += 1
        if state.scorer:
            state.scorer.keep(scorer_states(state.alive))
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

    def __init__(self, model: StreamingModel, blank: int, decode: DecodeConfig, keep: int | None = None):
        super().__init__(model, blank, decode)
        self.keep = 4 * decode.beam if keep is None else keep

    def start(self, scorer: Scorer | None = None) -> BeamState:
        return BeamState(self._first, self.decode, self._across_pauses(scorer), self.pauses)

    def advance(self, states: Sequence[BeamState], encoded: Sequence[Array]) -> None:
        for t in range(max(map(len, encoded), default=0)):
            if self.pauses.frames:
                self._restart([state for state, x in zip(states, encoded, strict=True) if t < len(x)])
            frames = [_Frame(state, x[t]) for state, x in zip(states, encoded, strict=True) if t < len(x)]
            running, symbols = frames, 0
            while running:
                running = self._round(running, last=symbols == self.decode.max_symbols)
                symbols += 1
            for frame in frames:
                frame.finish(self.decode.beam, self.keep)

    def _restart(self, states: list[BeamState]) -> None:
        """Start the predictor afresh for the prefixes whose likeliest alignment wrote nothing for long enough.

        Such a prefix gets another key: it does not merge with one of the same labels that the predictor remembers, but
        with one that started afresh before it.
        """
        for state in states:
            alive = {prefix.key: prefix for prefix in state.alive}
            for prefix in state.alive:
                if prefix.is_fresh or prefix.path is None or state.num_frames - prefix.path[2] <= self.pauses.frames:
                    continue
                del alive[prefix.key]
                prefix.key, prefix.predicted, prefix.is_fresh = extend_key(prefix.key, self.blank), self._first, True
                state.predictions[prefix.key] = self._first
                if state.scorer:
                    (prefix.scorer_state,) = state.scorer.paused(scorer_states([prefix])).tolist()
                same = alive.setdefault(prefix.key, prefix)
                if same is not prefix:
                    same.merge(prefix.score, prefix.path)
            state.alive = list(alive.values())

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
                added = frame.added()
                if added is not None:
                    longer += added
                unknown += [(frame.state, *new) for new in frame.write(longer, self.decode.beam, added)]
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


def scorer_states(prefixes: list[Prefix]) -> Array:
    """Return the scorer's states (M,) of prefixes."""
    return np.array([prefix.scorer_state for prefix in prefixes], np.int64)


def _trace(path: Path, score: float, context: float) -> Hypothesis:
    """Return the hypothesis at the end of `path`."""
    tokens, frames = [], []
    while path is not None:
        path, label, frame = path
        tokens.append(label)
        frames.append(frame)
    return Hypothesis(tokens[::-1], frames[::-1], score, context)


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
