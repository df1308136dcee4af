"""Greedy search: the best label or blank at every step (one alignment, no merging)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from residualformer.runtime.search import Array, Hypothesis, Network, Predicted, log_softmax

RUN = 8  # frames of a stream that are tried at once; most write nothing, so one joiner call does for all


class GreedyState:
    """One stream: the labels written so far, their frames, and what the predictor says after them."""

    def __init__(self, predicted: Predicted):
        self.predicted = predicted
        self.labels, self.frames = array("q"), array("q")  # an hour of speech is half a megabyte
        self.score = 0.0
        self.num_frames = 0
        self.written = 0  # labels at the present frame

    def nbest(self, most: int = 1) -> list[Hypothesis]:
        return [Hypothesis(self.labels.tolist(), self.frames.tolist(), self.score)][:most]

    def last_label(self) -> int | None:
        return self.frames[-1] if self.frames else None


class GreedySearch:
    """The search with its settings.

    Every stream keeps its own place in time. A call of the joiner looks at the next frames of all streams at once,
    with what their predictors say now; a stream keeps the frames up to its next label, and the rest is tried again.

    Args:
        model: predictor and joiner.
        blank: id of the blank.
        max_symbols: labels that one frame may write; after so many a blank is forced.
        blank_penalty: subtracted from the blank's logit; scores are log-probabilities after that.
        token_reward: nats that a label may be less likely than the blank and still be written.
    """

    def __init__(
        self,
        model: Network,
        blank: int,
        max_symbols: int = 5,
        blank_penalty: float = 0.0,
        token_reward: float = 0.0,
    ):
        self.model, self.blank, self.max_symbols = model, blank, max_symbols
        self.blank_penalty, self.token_reward = blank_penalty, token_reward
        self._first = Predicted(*model.predict([blank], [model.predictor_state()])[0])

    def start(self) -> GreedyState:
        return GreedyState(self._first)

    def advance(self, states: Sequence[GreedyState], encoded: Sequence[Array]) -> None:
        active = [(state, frames) for state, frames in zip(states, encoded, strict=True) if len(frames)]
        while active:
            tried = [frames[:RUN] for _, frames in active]
            sizes = [len(frames) for frames in tried]
            predicted = np.stack([state.predicted.output for state, _ in active])
            logits = self.model.join(np.concatenate(tried), predicted.repeat(sizes, axis=0))
            logits[:, self.blank] -= self.blank_penalty
            logp = log_softmax(logits)
            rest, writers = [], []
            for (state, frames), rows in zip(active, np.split(logp, np.cumsum(sizes)[:-1]), strict=True):
                used, wrote = self._read(state, rows)
                if wrote:
                    writers.append(state)
                if used < len(frames):
                    rest.append((state, frames[used:]))
            self._predict(writers)
            active = rest

    def _read(self, state: GreedyState, logp: Array) -> tuple[int, bool]:
        """Blanks of `logp` (t, V) up to the first label and that label; gives frames done, and whether it wrote."""
        blank = logp[:, self.blank].copy()
        logp[:, self.blank] -= self.token_reward
        best = logp.argmax(axis=1)
        if state.written >= self.max_symbols:
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
        return used, True

    def _predict(self, writers: list[GreedyState]) -> None:
        if not writers:
            return
        found = self.model.predict([state.labels[-1] for state in writers], [s.predicted.state for s in writers])
        for state, new in zip(writers, found, strict=True):
            state.predicted = Predicted(*new)
