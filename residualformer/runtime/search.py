"""The common ground of both searches: hypotheses, and the part of a model that they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
State = tuple[Array, ...]


class Hypothesis(NamedTuple):
    """A label sequence, the encoder frame at which each label was written, and its log-probability (natural)."""

    tokens: list[int]
    frames: list[int]
    score: float


class Predicted(NamedTuple):
    """The predictor after a label sequence: its output for the joiner, and its state."""

    output: Array
    state: State


class Network(Protocol):
    """Predictor and joiner, as `ExportedModel` has them."""

    def predictor_state(self) -> State: ...

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]: ...

    def join(self, encoded: Array, predicted: Array) -> Array: ...


class SearchState(Protocol):
    """The search of one stream so far.

    Attributes:
        num_frames: encoder frames searched.
    """

    num_frames: int

    def nbest(self, most: int = 1) -> list[Hypothesis]:
        """Return the likeliest hypotheses over all frames fed so far, best first."""

    def last_label(self) -> int | None:
        """Return the frame at which the best hypothesis wrote its last label; None when it has none."""


S = TypeVar("S", bound=SearchState)


class Search(Protocol[S]):
    """Greedy or beam search of many streams together."""

    def start(self) -> S:
        """Return the state of a stream before its first frame."""

    def advance(self, states: Sequence[S], encoded: Sequence[Array]) -> None:
        """Search the next frames (T, D) of each stream; T may differ, and may be 0. `states` are changed."""


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities (M, V) of logits (M, V), in their precision."""
    logits = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    return logits - np.log(np.add.reduce(np.exp(logits), axis=1, keepdims=True))
