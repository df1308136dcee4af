"""The transducer's internal language model, to be taken away where another one is added.

A transducer learns the label sequences of its training transcripts with its predictor. Its joiner with the encoder's
part left out, here the whole projection to zero, gives their distribution, normalized over the labels without the blank
(Variani et al., 2020, "Hybrid autoregressive transducer", section 3; Meng et al., 2021, "Internal language model
estimation for domain-adaptive end-to-end speech recognition", section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from residualformer.constants import BLANK
from residualformer.context.scorer import Array, Context, Scorer
from residualformer.lm.remembered import RememberedScorer

S = TypeVar("S")
Step = Callable[[Sequence[int], Sequence[S]], tuple[Array, Sequence[S]]]


class InternalLM(Context, Generic[S]):
    """The internal language model of a transducer, in natural logarithms; it knows no end of sentences.

    Args:
        step: from M labels and the predictor's states before them to the joiner's logits (M, V) without the encoder,
            the blank first, and the states after them.
        first: the predictor's state before the blank that stands for the start.
    """

    def __init__(self, step: Step[S], first: S) -> None:
        self._step = step
        [self.first] = self.extend([BLANK], [first])

    def scorer(self) -> Scorer:
        return _InternalScorer(self)

    def describe(self) -> dict[str, Any]:
        return {"internal": {}}

    def extend(self, labels: Sequence[int], states: Sequence[S]) -> list[tuple[Array, S]]:
        """Return log P(label) (V,), 0 for the blank, and the states after one more label each."""
        logits, after = self._step(labels, states)
        logits = logits[:, BLANK + 1 :] - logits[:, BLANK + 1 :].max(axis=1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = np.concatenate([np.zeros_like(logp[:, :1]), logp], axis=1).astype(np.float32)
        return [(row.copy(), state) for row, state in zip(rows, after, strict=True)]


class _InternalScorer(RememberedScorer[S]):
    """The scorer of a stream."""

    def __init__(self, model: InternalLM[S]) -> None:
        super().__init__(*model.first)
        self._model = model

    def extend(self, labels: Sequence[int], states: Sequence[S]) -> list[tuple[Array, S]]:
        return self._model.extend(labels, states)

    def scores(self, states: Array) -> Array:
        return self.outputs(states)

    def final(self, states: Array) -> Array:
        return np.zeros(len(states), np.float32)
