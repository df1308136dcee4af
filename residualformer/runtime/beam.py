"""Beam search that sums over alignments: the search of `decode/beam.py`, whose module text defines it.

The same hypotheses come out; what differs is the work. The predictor runs once for each label sequence and not each
time that the sequence is proposed again; predictor and joiner see the hypotheses of all streams in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np

from residualformer.runtime.search import Array, Hypothesis, Network, Predicted, log_softmax

Path = tuple[Any, int, int] | None  # (the path before, label, encoder frame); None is the empty one
_MASK = (1 << 64) - 1


class Prefix:
    """A sequence of `length` labels; `score` is its log-probability with their rewards.

    `key` is equal for equal sequences (see `extend_key`). `path` is its likeliest alignment. `predicted` is None until
    the predictor has been asked.
    """

    __slots__ = ("score", "key", "length", "path", "predicted")

    def __init__(self, score: float, key: int, length: int, path: Path, predicted: Predicted | None):
        self.score, self.key, self.length, self.path, self.predicted = score, key, length, path, predicted


class BeamState:
    """One stream: the W sequences alive, best score first, and the predictor's answers for them and their proposals."""

    def __init__(self, predicted: Predicted, token_reward: float, length_norm: bool):
        self.token_reward, self.length_norm = token_reward, length_norm
        self.alive = [Prefix(0.0, 0, 0, None, predicted)]
        self.known: dict[int, Predicted] = {0: predicted}  # by key; the answers used last come last
        self.num_frames = 0

    def nbest(self, most: int = 1) -> list[Hypothesis]:
        return [_trace(prefix.path, self._logp(prefix)) for prefix in self._best_first()[:most]]

    def last_label(self) -> int | None:
        path = self._best_first()[0].path
        return None if path is None else path[2]

    def _logp(self, prefix: Prefix) -> float:
        return prefix.score - self.token_reward * prefix.length

    def _best_first(self) -> list[Prefix]:
        if not self.length_norm:
            return self.alive
        return sorted(self.alive, key=lambda prefix: self._logp(prefix) / (prefix.length + 1), reverse=True)


class _Frame:
    """The rounds of one frame of one stream: A is `alive`, B is `done`, in the letters of `decode/beam.py`."""

    def __init__(self, state: BeamState, encoded: Array):
        self.state, self.encoded = state, encoded
        self.alive: list[Prefix] = state.alive
        self.done: dict[int, Prefix] = {}

    def scores(self) -> Array:
        """(A,) of `alive`."""
        return np.array([prefix.score for prefix in self.alive])

    def stop_here(self, scores: Array) -> None:
        """Let `alive`, which are changed, write no more at this frame: with `scores` (A,) they are added to B."""
        for prefix, score in zip(self.alive, scores.tolist(), strict=True):
            same = self.done.setdefault(prefix.key, prefix)
            if same is prefix:
                prefix.score = score
                continue
            if score > same.score:
                same.path = prefix.path
            same.score = _log_add(same.score, score)

    def write(self, scores: Array, width: int) -> list[tuple[Prefix, Prefix, int]]:
        """Let the best W one-label continuations that may enter the beam be `alive`; scores (A, V), the blank's -inf.

        Gives (prefix, new prefix, label) of those of which the predictor has not been asked yet.
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
            predicted = self.state.known.pop(key, None)
            new = Prefix(score, key, parent.length + 1, (parent.path, label, self.state.num_frames), predicted)
            alive.append(new)
            if predicted is None:
                unknown.append((parent, new, label))
            else:
                self.state.known[key] = predicted  # as the last used
        self.alive = alive
        return unknown

    def finish(self, width: int, keep: int) -> None:
        """The W best of `done` go on to the next frame; the `keep` answers used last stay known."""
        state = self.state
        state.alive = sorted(self.done.values(), key=attrgetter("score"), reverse=True)[:width]
        state.num_frames += 1
        excess = len(state.known) - keep
        if excess > 0:
            alive = {prefix.key for prefix in state.alive}
            for key in list(islice((key for key in state.known if key not in alive), excess)):
                del state.known[key]

    def _worst(self, width: int) -> float:
        if len(self.done) < width:
            return -math.inf
        return sorted([prefix.score for prefix in self.done.values()])[-width]


class BeamSearch:
    """The search with its settings.

    Args:
        model: predictor and joiner.
        blank: id of the blank.
        beam: W, hypotheses kept of each stream after each frame.
        max_symbols: S, labels that one frame may write.
        blank_penalty: subtracted from the blank's logit; scores are log-probabilities after that.
        token_reward: nats added for each label, within the search.
        length_norm: the order is that of the log-probability per label, the end counted as one.
        keep: predictor's answers that a stream remembers, beside those of living hypotheses; default 4 W.
    """

    def __init__(
        self,
        model: Network,
        blank: int,
        beam: int = 16,
        max_symbols: int = 5,
        blank_penalty: float = 0.0,
        token_reward: float = 0.0,
        length_norm: bool = False,
        keep: int | None = None,
    ):
        self.model, self.blank, self.width, self.max_symbols = model, blank, beam, max_symbols
        self.blank_penalty, self.keep = blank_penalty, 4 * beam if keep is None else keep
        self.token_reward, self.length_norm = token_reward, length_norm
        self._first = Predicted(*model.predict([blank], [model.predictor_state()])[0])

    def start(self) -> BeamState:
        return BeamState(self._first, self.token_reward, self.length_norm)

    def advance(self, states: Sequence[BeamState], encoded: Sequence[Array]) -> None:
        for t in range(max(map(len, encoded), default=0)):
            frames = [_Frame(state, x[t]) for state, x in zip(states, encoded, strict=True) if t < len(x)]
            running = frames
            for symbols in range(self.max_symbols + 1):
                running = self._round(running, last=symbols == self.max_symbols)
            for frame in frames:
                frame.finish(self.width, self.keep)

    def _round(self, frames: list[_Frame], last: bool) -> list[_Frame]:
        """One round of each of `frames`; gives those that have another."""
        if not frames:
            return []
        sizes = [len(frame.alive) for frame in frames]
        encoded = _rows([frame.encoded for frame in frames]).repeat(sizes, axis=0)
        predicted = _rows([prefix.predicted.output for frame in frames for prefix in frame.alive])
        logits = self.model.join(encoded, predicted)
        logits[:, self.blank] -= self.blank_penalty
        logp = log_softmax(logits)
        blank = logp[:, self.blank].copy()
        logp[:, self.blank] = -np.inf
        unknown, start = [], 0
        for frame, size in zip(frames, sizes, strict=True):
            rows, scores = slice(start, start + size), frame.scores()
            start += size
            frame.stop_here(scores + blank[rows])
            if not last:
                longer = scores[:, None] + self.token_reward + logp[rows]
                unknown += [(frame.state, *new) for new in frame.write(longer, self.width)]
        if unknown:
            self._predict(unknown)
        return [] if last else [frame for frame in frames if frame.alive]

    def _predict(self, unknown: list[tuple[BeamState, Prefix, Prefix, int]]) -> None:
        found = self.model.predict([label for *_, label in unknown], [p.predicted.state for _, p, *_ in unknown])
        for (state, _, prefix, _), new in zip(unknown, found, strict=True):
            prefix.predicted = state.known[prefix.key] = Predicted(*new)


def _rows(vectors: list[Array]) -> Array:
    """np.stack, in half the time."""
    return np.concatenate(vectors).reshape(len(vectors), -1)


def _trace(path: Path, score: float) -> Hypothesis:
    """The hypothesis at the end of `path`."""
    tokens, frames = [], []
    while path is not None:
        path, label, frame = path
        tokens.append(label)
        frames.append(frame)
    return Hypothesis(tokens[::-1], frames[::-1], score)


def extend_key(key: int, label: int) -> int:
    """64-bit key of `sequence + label` from that of `sequence`, by the finaliser of splitmix64 (Steele et al., 2014).

    Equal sequences have equal keys; two different ones collide with a chance of about 2^-64.
    """
    key = (key ^ (label + 1)) * 0x9E3779B97F4A7C15 & _MASK
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    key = (key ^ key >> 27) * 0x94D049BB133111EB & _MASK
    return key ^ key >> 31


def _log_add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high)) if low > -math.inf else high
