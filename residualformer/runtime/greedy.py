"""Greedy search: the best label or blank at every step (one alignment, no merging)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from residualformer.context.scorer import Array, Scorer
from residualformer.hypothesis import Hypothesis, separated
from residualformer.runtime.search import NO_PAUSES, Pauses, Predicted, Search, SearchState

RUN = 8  # frames of a stream that the joiner sees in one call; most of them write nothing


class GreedyState(SearchState):
    """A stream: the labels written so far, their frames, and the predictor's output after them."""

    def __init__(self, predicted: Predicted, scorer: Scorer | None = None, pauses: Pauses = NO_PAUSES):
        self.predicted, self.scorer, self.pauses = predicted, scorer, pauses
        self.labels, self.frames = array("q"), array("q")  # an hour of speech is half a megabyte
        self.score = 0.0
        self.num_frames = 0
        self.written = 0  # labels at the present frame
        self.is_fresh = True  # the predictor has seen no label
        self.context = 0.0  # what the scorer added
        self.scorer_state = np.array([scorer.start() if scorer else 0], np.int64)

    def nbest(self, most: int = 1, ended: bool = False) -> list[Hypothesis]:
        context = self.context
        if ended and self.scorer:
            context += float(self.scorer.final(self.scorer_state)[0])
        if context == -np.inf:
            return []
        found = Hypothesis(self.labels.tolist(), self.frames.tolist(), self.score, context)
        return [separated(found, *self.pauses)][:most]

    def last_label(self) -> int | None:
        return self.frames[-1] if self.frames else None


class GreedySearch(Search[GreedyState]):
    """Greedy search of many streams.

    One call of the joiner takes the next frames of all streams, with their predictors' present outputs. A stream
    advances to its next label; the frames after it are scored again with the predictor's new output. A label may be
    less likely than the blank by `decode.token_reward`, and what the scorer adds for it, and still be written. After
    `decode.restart_s` seconds without a label the predictor starts afresh.
    """

    def start(self, scorer: Scorer | None = None) -> GreedyState:
        return GreedyState(self._first, self._across_pauses(scorer), self.pauses)

    def advance(self, states: Sequence[GreedyState], encoded: Sequence[Array]) -> None:
        active = [(state, frames) for state, frames in zip(states, encoded, strict=True) if len(frames)]
        while active:
            tried = [frames[: self._run(state)] for state, frames in active]
            sizes = [len(frames) for frames in tried]
            predicted = np.stack([state.predicted.output for state, _ in active])
            logp = self._log_probabilities(np.concatenate(tried), predicted.repeat(sizes, axis=0))
            rest, writers = [], []
            for (state, frames), rows in zip(active, np.split(logp, np.cumsum(sizes)[:-1]), strict=True):
                used, wrote = self._read(state, rows)
                if wrote:
                    writers.append(state)
                if used < len(frames):
                    rest.append((state, frames[used:]))
            self._predict(writers)
            active = rest

    def _run(self, state: GreedyState) -> int:
        """Return how many frames one output of the predictor may be tried on; start it afresh where a pause is over."""
        if not self.pauses.frames or state.is_fresh:
            return RUN
        left = state.frames[-1] + 1 + self.pauses.frames - state.num_frames
        if left > 0:
            return min(RUN, left)
        state.predicted, state.is_fresh = self._first, True
        if state.scorer is not None:
            state.scorer_state = state.scorer.paused(state.scorer_state)
        return RUN

    def _read(self, state: GreedyState, logp: Array) -> tuple[int, bool]:
        """Advance over `logp` (t, V) to the first label; return the frames passed, and whether a label was written."""
        blank = logp[:, self.blank].copy()
        logp[:, self.blank] -= self.decode.token_reward
        added = None if state.scorer is None else state.scorer.scores(state.scorer_state)
        best = (logp if added is None else logp + added).argmax(axis=1)
        if state.written >= self.decode.max_symbols:
            best[0] = self.blank
        labels = np.flatnonzero(best != self.blank)
        used = int(labels[0]) if len(labels) else len(logp)
        state.score += float(blank[:used].sum(dtype=np.float64))
        state.num_frames += used
        state.written = 0 if used else state.written
        if used == len(logp):
            return used, False
        label = int(best[used])
        state.score += float(logp[used, label])
        state.labels.append(label)
        state.frames.append(state.num_frames)
        state.written += 1
        if state.scorer is not None and added is not None:
            state.context += float(added[0, label])
            state.scorer_state = state.scorer.advance(state.scorer_state, np.array([label], np.int64))
            state.scorer.keep(state.scorer_state)
        return used, True

    def _predict(self, writers: list[GreedyState]) -> None:
        if not writers:
            return
        found = self.model.predict([state.labels[-1] for state in writers], [s.predicted.state for s in writers])
        for state, new in zip(writers, found, strict=True):
            state.predicted, state.is_fresh = Predicted(*new), False
