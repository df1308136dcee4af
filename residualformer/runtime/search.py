"""The common part of both searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.context.pauses import separating
from residualformer.context.scorer import Scorer
from residualformer.hypothesis import Hypothesis, pause_frames, word_separator
from residualformer.runtime.model import Array, State, StreamingModel


class Predicted(NamedTuple):
    """The predictor after a label sequence: its output for the joiner, and its state."""

    output: Array
    state: State


class Pauses(NamedTuple):
    """Frames without a label after which the predictor starts afresh, 0 is never; the label that then parts words."""

    frames: int
    separator: int | None


NO_PAUSES = Pauses(0, None)


class SearchState(ABC):
    """The search of one stream so far, with its scorer, if any."""

    num_frames: int  # encoder frames searched
    scorer: Scorer | None

    @abstractmethod
    def nbest(self, most: int = 1, ended: bool = False) -> list[Hypothesis]:
        """Return the likeliest hypotheses over all frames fed so far, best first.

        With `ended` they count as whole utterances: without those that the scorer lets not end here, maybe all.
        """

    @abstractmethod
    def last_label(self) -> int | None:
        """Return the frame at which the best hypothesis wrote its last label; None when it has none."""


S = TypeVar("S", bound=SearchState)


class Search(ABC, Generic[S]):
    """A search of many streams together, with the predictor and the joiner of `model`."""

    def __init__(self, model: StreamingModel, blank: int, decode: DecodeConfig):
        self.model, self.blank, self.decode = model, blank, decode
        self.pauses = NO_PAUSES
        if decode.restart_s:
            self.pauses = Pauses(pause_frames(decode.restart_s, model.stride), word_separator(model.pieces))
        self._first = Predicted(*model.predict([blank], [model.predictor_state()])[0])

    @abstractmethod
    def start(self, scorer: Scorer | None = None) -> S:
        """Return the state of a stream before its first frame; `scorer` has the numbering of the model's labels."""

    @abstractmethod
    def advance(self, states: Sequence[S], encoded: Sequence[Array]) -> None:
        """Search the next frames (T, D) of each stream; T may differ, and may be 0. `states` are changed."""

    def _across_pauses(self, scorer: Scorer | None) -> Scorer | None:
        """Return the scorer of a stream, which reads what is written between words at pauses."""
        return None if scorer is None else separating(scorer, self.pauses.separator, self.blank)

    def _log_probabilities(self, encoded: Array, predicted: Array) -> Array:
        """Return log P(label) (M, V) of M pairs of frames and predictor outputs, both (M, J)."""
        logits = self.model.join(encoded, predicted)
        logits[:, self.blank] -= self.decode.blank_penalty
        return log_softmax(logits)


def chosen_search(decode: DecodeConfig, greedy: bool, beam: int | None) -> DecodeConfig:
    """Return the settings of a search with another kind: greedy, or with a beam of a given size; None for as it is."""
    if greedy:
        return replace(decode, kind="greedy")
    return decode if beam is None else replace(decode, kind="beam", beam=beam)


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities (M, V) of logits (M, V), in their precision."""
    logits = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    return logits - np.log(np.add.reduce(np.exp(logits), axis=1, keepdims=True))
