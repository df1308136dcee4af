"""The common part of both searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.hypothesis import Hypothesis
from residualformer.runtime.model import Array, ExportedModel, State


class Predicted(NamedTuple):
    """The predictor after a label sequence: its output for the joiner, and its state."""

    output: Array
    state: State


class SearchState(ABC):
    """The search of one stream so far."""

    num_frames: int  # encoder frames searched

    @abstractmethod
    def nbest(self, most: int = 1) -> list[Hypothesis]:
        """Return the likeliest hypotheses over all frames fed so far, best first."""

    @abstractmethod
    def last_label(self) -> int | None:
        """Return the frame at which the best hypothesis wrote its last label; None when it has none."""


S = TypeVar("S", bound=SearchState)


class Search(ABC, Generic[S]):
    """A search of many streams together, with the predictor and the joiner of `model`."""

    def __init__(self, model: ExportedModel, blank: int, decode: DecodeConfig):
        self.model, self.blank, self.decode = model, blank, decode
        self._first = Predicted(*model.predict([blank], [model.predictor_state()])[0])

    @abstractmethod
    def start(self) -> S:
        """Return the state of a stream before its first frame."""

    @abstractmethod
    def advance(self, states: Sequence[S], encoded: Sequence[Array]) -> None:
        """Search the next frames (T, D) of each stream; T may differ, and may be 0. `states` are changed."""

    def _log_probabilities(self, encoded: Array, predicted: Array) -> Array:
        """Return log P(label) (M, V) of M pairs of frames and predictor outputs, both (M, J)."""
        logits = self.model.join(encoded, predicted)
        logits[:, self.blank] -= self.decode.blank_penalty
        return log_softmax(logits)


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities (M, V) of logits (M, V), in their precision."""
    logits = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    return logits - np.log(np.add.reduce(np.exp(logits), axis=1, keepdims=True))
