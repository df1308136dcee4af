"""LSTM layers of the memory-lean engine, and the arbitrator that is made of them."""

from __future__ import annotations

import numpy as np

from residualformer.runtime.model import Array
from residualformer.runtime.weights import MappedWeights


def lstm_step(weights: MappedWeights, name: str, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Run the LSTM layer `name` for a step: x (N, D), h and c (N, H) -> the new h and c."""
    gates = weights.linear(x, f"{name}.input") + weights.product(h, f"{name}.recurrent.weight")
    i, f, candidate, o = np.split(gates, 4, axis=1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(candidate)
    return _sigmoid(o) * np.tanh(c), c


class LeanArbitrator:
    """The network that chooses the depth of each chunk.

    The state of a stream: h and c of its layers, each (layers, H), the backlog, 0 where it is not seen, and the number
    of the depth that was chosen last.
    """

    def __init__(self, weights: MappedWeights):
        self._weights, self._layers = weights, 0
        while f"arbitrator.{self._layers}.recurrent.weight" in weights:
            self._layers += 1
        self._dim, self.num_depths = weights.shape("arbitrator.out.weight")

    def state(self) -> tuple[Array, ...]:
        h = np.zeros((self._layers, self._dim), np.float32)
        return h, h, np.zeros((), np.float32), np.zeros((), np.int64)

    def decide(self, x: Array, state: list[Array]) -> list[Array]:
        """Return the state after chunks x (N, C D)."""
        weights, (h, c, backlog, _) = self._weights, state
        h, c = h.copy(), c.copy()  # are changed
        if "arbitrator.added" in weights:
            x = np.concatenate([x, np.log1p(backlog)[:, None]], axis=1)
        for layer in range(self._layers):
            x, c[:, layer] = lstm_step(weights, f"arbitrator.{layer}", x, h[:, layer], c[:, layer])
            h[:, layer] = x
        branch = weights.linear(x, "arbitrator.out").argmax(axis=1)
        if "arbitrator.added" in weights:
            backlog = np.maximum(backlog + weights.small("arbitrator.added")[branch], 0)
        return [h, c, backlog, branch]


def _sigmoid(x: Array) -> Array:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # never overflows
