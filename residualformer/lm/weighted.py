"""A scorer times a factor."""

from __future__ import annotations

from typing import Any

import numpy as np

from residualformer.context.scorer import Array, Context, Scorer


class Weighted(Context):
    """What another context's scorers add, times `weight`, not 0."""

    def __init__(self, context: Context, weight: float) -> None:
        self.context, self.weight = context, weight
        # A scorer that is the same for all streams stays one, so that a batch of streams asks it once.
        self._shared = _WeightedScorer(context, weight) if isinstance(context, Scorer) else None

    def scorer(self) -> Scorer:
        return self._shared or _WeightedScorer(self.context.scorer(), self.weight)

    def describe(self) -> dict[str, Any]:
        return {kind: {**values, "weight": self.weight} for kind, values in self.context.describe().items()}


class _WeightedScorer(Scorer):
    def __init__(self, scorer: Scorer, weight: float) -> None:
        self.scorer, self.weight = scorer, np.float32(weight)

    def start(self) -> int:
        return self.scorer.start()

    def scores(self, states: Array) -> Array:
        return self.scorer.scores(states) * self.weight

    def advance(self, states: Array, labels: Array) -> Array:
        return self.scorer.advance(states, labels)

    def final(self, states: Array) -> Array:
        return self.scorer.final(states) * self.weight

    def keep(self, states: Array) -> None:
        self.scorer.keep(states)
