"""Beam search over a transducer as the textbook has it: Graves (2012), algorithm 1, one hypothesis at a time.

Nothing is shared or remembered: each hypothesis that is taken up asks the predictor and the joiner by itself. Paths of
one label sequence meet, and their probabilities are added, where the sequence is taken up or written again; that is
what the algorithm's sum over prefixes is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from residualformer.hypothesis import Hypothesis
from residualformer.runtime.model import Array, ExportedModel
from residualformer.runtime.search import Predicted, log_softmax

Labels = tuple[int, ...]


class PlainState:
    """One stream: B, the W best label sequences (as (label, frame) pairs) with their log-probabilities."""

    scorer = None

    def __init__(self, predicted: Predicted):
        self.best: dict[Labels, float] = {(): 0.0}
        self.frames: dict[Labels, Labels] = {(): ()}
        self.predicted: dict[Labels, Predicted] = {(): predicted}
        self.num_frames = 0

    def nbest(self, most: int = 1, ended: bool = False) -> list[Hypothesis]:
        order = sorted(self.best, key=self.best.get, reverse=True)[:most]
        return [Hypothesis(list(labels), list(self.frames[labels]), self.best[labels]) for labels in order]

    def last_label(self) -> int | None:
        frames = self.frames[max(self.best, key=self.best.get)]
        return frames[-1] if frames else None


class PlainBeamSearch:
    """`Search` of `residualformer.runtime` for any number of streams, one after the other."""

    def __init__(self, model: ExportedModel, blank: int, beam: int = 16):
        self.model, self.blank, self.width = model, blank, beam
        self._first = self._predict(blank, model.predictor_state())

    def start(self, scorer: None = None) -> PlainState:
        return PlainState(self._first)

    def advance(self, states: Sequence[PlainState], encoded: Sequence[Array]) -> None:
        for state, frames in zip(states, encoded, strict=True):
            for frame in frames:
                self._frame(state, frame)

    def _frame(self, state: PlainState, frame: Array) -> None:
        """A = B, B = {}; the likeliest of A is taken up until B holds W that are likelier than all of A."""
        open_, done = dict(state.best), {}
        while open_:
            labels = max(open_, key=open_.get)
            if sum(score > open_[labels] for score in done.values()) >= self.width:
                break
            score, predicted = open_.pop(labels), self._of(state, labels)
            logp = log_softmax(self.model.join(frame[None], predicted.output[None]))[0]
            done[labels] = np.logaddexp(done.get(labels, -math.inf), score + logp[self.blank])
            logp[self.blank] = -math.inf
            for label in np.argpartition(logp, -min(self.width, len(logp)))[-self.width :].tolist():
                if label != self.blank:
                    longer = (*labels, label)
                    open_[longer] = np.logaddexp(open_.get(longer, -math.inf), score + logp[label])
                    state.frames.setdefault(longer, (*state.frames[labels], state.num_frames))
        state.best = dict(sorted(done.items(), key=lambda item: item[1], reverse=True)[: self.width])
        state.frames = {labels: state.frames[labels] for labels in state.best}
        state.predicted = {labels: state.predicted[labels] for labels in state.best}
        state.num_frames += 1

    def _of(self, state: PlainState, labels: Labels) -> Predicted:
        if labels not in state.predicted:  # its parent was taken up in this frame
            state.predicted[labels] = self._predict(labels[-1], state.predicted[labels[:-1]].state)
        return state.predicted[labels]

    def _predict(self, label: int, state: tuple) -> Predicted:
        return Predicted(*self.model._predict([label], [state])[0])  # `predict` remembers stateless answers
