"""What the encoders have in common as graphs: the states of a stream, and the features that come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from residualformer.export.builder import Graph


@dataclass(frozen=True)
class StateShape:
    """What a stream carries besides a counter: `parts` arrays (N, 1, rows, size), and one flat one (N, front).

    Every part is of the one or the other kind of two: keys and values, or h and c, first all of the one.
    """

    parts: int
    rows: int
    size: int
    front: int


class Step(NamedTuple):
    """Values of one step: frames (N, C, J), and the state as `StateShape` has it, `seen` (N,) int64."""

    frames: str
    parts: list[str]
    front: str
    seen: str


class EncoderGraph(Protocol):
    """An encoder that can be written as a graph; `frames_per_step` is C."""

    state: StateShape
    frames_per_step: int

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """One step from features x (N, window, F), of which `length` (N,) are real (None: all), and the state."""


def normalised(g: Graph, encoder, x: str, real: str | None) -> str:
    """Global mean and variance of x (N, window, F); zeros (the mean) where `real` (N, window) is false."""
    x = g.Div(g.Sub(x, g.weight("mean", lambda: encoder.mean)), g.weight("std", lambda: encoder.std))
    if real is None:
        return x
    return g.Where(g.Unsqueeze(real, g.constant([2])), x, g.constant(0, "float32"))


def before(g: Graph, size: int, length: str) -> str:
    """(N, size) bool: which of the positions 0 ... size - 1 are below `length` (N,) int64."""
    return g.Less(g.constant(np.arange(size)[None]), g.Unsqueeze(length, g.constant([1])))


def whole(g: Graph, length: str, stride: int) -> str:
    """ceil(length / stride), (N,) int64."""
    return g.Div(g.Add(length, g.constant(stride - 1)), g.constant(stride))


def lstm_cell(g: Graph, gates: str, c: str) -> list[str]:
    """gates (N, 4 H) before their non-linearities, c (N, H) -> h, c."""
    i, f, candidate, o = g.Split(gates, axis=1, outputs=4)
    c = g.Add(g.Mul(g.Sigmoid(f), c), g.Mul(g.Sigmoid(i), g.Tanh(candidate)))
    return [g.Mul(g.Sigmoid(o), g.Tanh(c)), c]


def gru_cell(g: Graph, gates: str, recurrent: str, h: str) -> list[str]:
    """gates: input products (N, 3 H) with the bias, recurrent: products with h (N, H) -> new h."""
    (r, z, n), (r_h, z_h, n_h) = (g.Split(part, axis=1, outputs=3) for part in (gates, recurrent))
    r, z = g.Sigmoid(g.Add(r, r_h)), g.Sigmoid(g.Add(z, z_h))
    n = g.Tanh(g.Add(n, g.Mul(r, n_h)))
    return [g.Add(n, g.Mul(z, g.Sub(h, n)))]
