"""The common parts of the encoders' graphs: states of a stream, features, recurrent cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from residualformer.export.builder import Graph
from residualformer.nn.encoder import Encoder


@dataclass(frozen=True)
class StateShape:
    """The state of a stream besides a counter: `parts` arrays (N, 1, rows, size), and a flat one (N, front).

    The parts are of two kinds: first the keys of all layers, then their values; or h, then c.
    """

    parts: int
    rows: int
    size: int
    front: int


class Step(NamedTuple):
    """The values of one step: frames (N, C, J), the state of `StateShape`, and the frames seen, (N,) int64."""

    frames: str
    parts: list[str]
    front: str
    seen: str


class EncoderGraph(Protocol):
    """An encoder that can be written as a graph; `frames_per_step` is C, the frames of a chunk."""

    state: StateShape
    frames_per_step: int

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """Add one step on features x (N, window, F), of which `length` (N,) are real (None: all), and a state."""


def normalized(g: Graph, encoder: Encoder[Any], x: str, real: str | None) -> str:
    """Normalize x (N, window, F) by mean and variance of the training set; zeros where `real` (N, window) is false."""
    x = g.op("Div", g.op("Sub", x, g.weight("mean", encoder.mean)), g.weight("std", encoder.std))
    if real is None:
        return x
    return g.op("Where", g.op("Unsqueeze", real, g.constant([2])), x, g.constant(0, "float32"))


def positions_below(g: Graph, size: int, length: str) -> str:
    """Return (N, size) bool: which of the positions 0 ... size - 1 are below `length` (N,) int64."""
    return g.op("Less", g.constant(np.arange(size)[None]), g.op("Unsqueeze", length, g.constant([1])))


def ceil_divide(g: Graph, length: str, stride: int) -> str:
    """Return ceil(length / stride), (N,) int64."""
    return g.op("Div", g.op("Add", length, g.constant(stride - 1)), g.constant(stride))


def lstm_cell(g: Graph, gates: str, c: str) -> list[str]:
    """Return the new h and c, each (N, H), for gates (N, 4 H) before their non-linearities and c (N, H)."""
    i, f, candidate, o = g.ops("Split", gates, axis=1, num_outputs=4)
    c = g.op("Add", g.op("Mul", g.op("Sigmoid", f), c), g.op("Mul", g.op("Sigmoid", i), g.op("Tanh", candidate)))
    return [g.op("Mul", g.op("Sigmoid", o), g.op("Tanh", c)), c]


def gru_cell(g: Graph, gates: str, recurrent: str, h: str) -> list[str]:
    """Return the new h (N, H); gates (N, 3 H): products with the input, plus bias; recurrent (N, 3 H): with h."""
    (r, z, n), (r_h, z_h, n_h) = (g.ops("Split", part, axis=1, num_outputs=3) for part in (gates, recurrent))
    r, z = g.op("Sigmoid", g.op("Add", r, r_h)), g.op("Sigmoid", g.op("Add", z, z_h))
    n = g.op("Tanh", g.op("Add", n, g.op("Mul", r, n_h)))
    return [g.op("Add", n, g.op("Mul", z, g.op("Sub", h, n)))]
