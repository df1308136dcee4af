"""The common parts of the encoders' graphs: states of a stream, features, the arbitrator, recurrent cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from onnx import TensorProto

from residualformer.export.builder import Graph
from residualformer.nn.arbitrator import Arbitrator
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


class Decision(NamedTuple):
    """What an arbitrator says: the branches of N streams, and its next state."""

    branch: str  # (N, 1) int64
    others: str  # (N, B - 1) float: 1 for the branch that is taken, without an entry for branch 0
    states: list[str]  # h and c of each of its layers, (N, H)


def state_sizes(arbitrator: Arbitrator) -> list[int]:
    """Return the sizes of what `decide` carries for a stream from step to step: its states, then `others`."""
    return [arbitrator.dim] * (2 * len(arbitrator.bias)) + [arbitrator.out.out_features - 1]


def decide(g: Graph, arbitrator: Arbitrator, x: str, states: Sequence[str]) -> Decision:
    """Ask the arbitrator about x (N, D), given its states; the most probable branch is taken."""
    new: list[str] = []
    weights = zip(arbitrator.input_weights(), arbitrator.recurrent, arbitrator.bias, strict=True)
    for index, (w_input, w_recurrent, bias) in enumerate(weights):
        name = f"arbitrator.{index}"
        gates = g.linear(x, f"{name}.input", w_input.T, bias)
        gates = g.op("Add", gates, g.matmul(states[2 * index], f"{name}.recurrent.weight", w_recurrent.T))
        x, c = lstm_cell(g, gates, states[2 * index + 1])
        new += [x, c]
    out = arbitrator.out
    branch = g.op("ArgMax", g.linear(x, "arbitrator.out", out.weight.T, out.bias), axis=1, keepdims=1)
    others = g.op("Equal", branch, g.constant([list(range(1, out.out_features))]))
    return Decision(branch, g.op("Cast", others, to=TensorProto.FLOAT), new)


def any_stream(g: Graph, mine: str) -> str:
    """Return whether `mine` (N, 1) is true for any stream, the scalar condition of `Graph.either`."""
    found = g.op("ReduceMax", g.op("Cast", mine, to=TensorProto.FLOAT), keepdims=0)
    return g.op("Cast", found, to=TensorProto.BOOL)


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
