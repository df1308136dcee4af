"""One step of the Transformer encoder as a graph: `TransformerEncoder.step`, with the state packed in few arrays.

Where an arbitrator chooses the depth of each chunk, a layer that not every depth runs is in an ONNX `If`, all but its
keys and values; so it is computed only if a stream of the batch runs it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from residualformer.errors import UserError
from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import (
    StateShape,
    Step,
    any_stream,
    ceil_divide,
    decide,
    normalized,
    positions_below,
    state_sizes,
)
from residualformer.nn.arbitrator import Arbitrator
from residualformer.nn.attention import rotary_table
from residualformer.nn.joiner import Joiner
from residualformer.nn.layer import TransformerLayer
from residualformer.nn.linear import ResidualLinear
from residualformer.nn.sharing import layer_groups
from residualformer.nn.transformer import TransformerEncoder

HIDDEN = -1e30  # added to the score of a frame that must not be seen; not -inf, whose softmax over a whole row is NaN


class Runs(NamedTuple):
    """Who runs a layer that not every depth runs."""

    streams: str  # (N, 1, 1) bool: which streams
    any: str  # scalar bool: whether any stream


class TransformerGraph:
    """A Transformer encoder, followed by the joiner's projection of its frames.

    The parts of its state are the keys of all layers, then their values. `front` is the last frame before each
    convolution and, where an arbitrator chooses depths, its states, the backlog if it sees that, and the last decision
    without the full depth's entry, so that zeros mean the full depth.

    Args:
        merged: write one dense matrix for each projection of a layer instead of W, A, B and D.

    Raises:
        UserError: the left context has no limit, so that the state would grow.
    """

    def __init__(self, encoder: TransformerEncoder, joiner: Joiner, merged: bool) -> None:
        if encoder.left_context is None:
            raise UserError("encoder.left_context_ms is null: a growing state cannot be exported; train with a limit.")
        self.encoder, self.joiner, self.arbitrator, self.merged = encoder, joiner, encoder.arbitrator, merged
        config = encoder.config
        self.frames_per_step = encoder.chunk
        self.held = max(encoder.left_context, 1)  # an array must have elements; a single row is masked
        self.groups = layer_groups(config.sharing, config.num_layers)
        self.caches = [math.prod(shape) for shape in encoder.subsampling.cache_shapes]
        self.front = [sum(self.caches)]
        if self.arbitrator is not None:
            *states, others = state_sizes(self.arbitrator)
            self.front += [*states, *([] if self.arbitrator.backlog is None else [1]), others]
        self.state = StateShape(2 * config.num_layers, self.held, config.dim, sum(self.front))

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """Add one step, as `EncoderGraph.build`."""
        encoder = self.encoder
        real = None if length is None else positions_below(g, encoder.window, length)
        caches, *before = g.split(state.front, 1, self.front)
        x, caches = self._subsample(g, normalized(g, encoder, x, real), caches)
        ahead = None if length is None else ceil_divide(g, length, encoder.stride)
        front, runs = [caches], self._runs(g, None)
        if self.arbitrator is not None:
            decided, branch = self._decide(g, self.arbitrator, x, ahead, before)
            front, runs = [caches, *decided], self._runs(g, branch)
        sizes = [encoder.window // encoder.stride] + [encoder.chunk] * (len(encoder.layers) - 1)
        hidden = {size: self._hidden(g, size, state.seen, ahead) for size in sorted(set(sizes))}
        layers, keys, values = len(sizes), [], []
        for index, (layer, size) in enumerate(zip(encoder.layers, sizes, strict=True)):
            past = state.parts[index], state.parts[layers + index]
            x, key, value = self._layer(g, index, layer, x, past, size, hidden[size], runs[index])
            keys.append(key)
            values.append(value)
        x = g.layer_norm(x, g.constant(np.ones(encoder.dim), "float32"))
        project = self.joiner.project_encoder
        x = g.linear(x, "joiner.project_encoder", project.weight.T, project.bias)
        return Step(x, keys + values, g.concat(front, 1), g.op("Add", state.seen, g.constant(encoder.chunk)))

    def _decide(
        self, g: Graph, arbitrator: Arbitrator, x: str, ahead: str | None, before: list[str]
    ) -> tuple[list[str], str]:
        """Ask the arbitrator about x (N, T, D) of the front end, of which `ahead` (N,) frames are real (None: all).

        Returns:
            What follows the front end's caches in the next `front`, as `before` did in this one, and (N, 1) int64, the
            number of each stream's depth.
        """
        encoder, chunk = self.encoder, self.encoder.chunk
        seen = g.layer_norm(g.slice(x, 1, 0, chunk), g.constant(np.ones(encoder.dim), "float32"))
        if ahead is not None:
            real = g.op("Unsqueeze", positions_below(g, chunk, ahead), g.constant([2]))
            seen = g.op("Where", real, seen, g.constant(0, "float32"))
        seen, states = g.reshape(seen, 0, chunk * encoder.dim), before[: 2 * len(arbitrator.bias)]
        backlog = before[len(states) : -1]  # empty unless it is seen
        if backlog:
            seen = g.concat([seen, g.op("Log", g.op("Add", *backlog, g.constant(1, "float32")))], 1)
        decision = decide(g, arbitrator, seen, states)
        if backlog:
            added = g.weight("arbitrator.added", encoder.load - 1)
            backlog = [g.op("Relu", g.op("Add", *backlog, g.op("Gather", added, decision.branch)))]
        return [*decision.states, *backlog, decision.others], decision.branch

    def _runs(self, g: Graph, branch: str | None) -> list[Runs | None]:
        """Return for each layer who runs it at the depths `branch` (N, 1); None: all streams do."""
        if branch is None:
            return [None] * len(self.encoder.layers)
        served = self.encoder.served
        depths = [sum(loop <= loops for loops in served) for loop in self.encoder.loop_of_layer]  # the first ones
        runs = {}
        for depth in sorted({*depths} - {len(served)}):
            mine = g.op("Less", branch, g.constant(depth))
            runs[depth] = Runs(g.op("Unsqueeze", mine, g.constant([2])), any_stream(g, mine))
        return [runs.get(depth) for depth in depths]

    def _subsample(self, g: Graph, x: str, front: str) -> tuple[str, str]:
        """Run the convolutions over the window: x (N, window, F) -> (N, window / stride, D) and their next caches."""
        front_end, window, shift = self.encoder.subsampling, self.encoder.window, self.encoder.shift
        kept, x = [], g.op("Unsqueeze", x, g.constant([1]))  # (N, 1, window, F)
        pasts = zip(g.split(front, 1, self.caches), front_end.cache_shapes, strict=True)
        for (name, conv), (past, shape) in zip(front_end.convolutions().items(), pasts, strict=True):
            x = g.concat([g.reshape(past, 0, *shape), x], 2)
            kept.append(g.op("Flatten", g.slice(x, 2, shift, shift + 1), axis=1))
            x, window, shift = self._convolve(g, x, f"subsampling.{name}", conv), window // 2, shift // 2
        x = g.reshape(g.op("Transpose", x, perm=[0, 2, 1, 3]), 0, window, front_end.out.in_features)
        return g.linear(x, "subsampling.out", front_end.out.weight.T, front_end.out.bias), g.concat(kept, 1)

    def _convolve(self, g: Graph, x: str, name: str, conv: nn.Conv2d) -> str:
        assert conv.bias is not None
        weights = g.weight(f"{name}.weight", conv.weight), g.weight(f"{name}.bias", conv.bias)
        return g.op("Relu", g.op("Conv", x, *weights, strides=[2, 2], pads=[0, 1, 0, 1], kernel_shape=[3, 3]))

    def _hidden(self, g: Graph, size: int, seen: str, ahead: str | None) -> str:
        """Return (N, 1, 1, held + size): `HIDDEN` where the past is empty or the window is padding, else 0."""
        empty = g.op("Sub", g.constant(self.held), seen if self.encoder.left_context else g.constant([0]))
        allowed = g.op("Not", positions_below(g, self.held + size, empty))
        if ahead is not None:
            allowed = g.op(
                "And", allowed, positions_below(g, self.held + size, g.op("Add", ahead, g.constant(self.held)))
            )
        hidden = g.op("Where", allowed, g.constant(0, "float32"), g.constant(HIDDEN, "float32"))
        return g.op("Unsqueeze", hidden, g.constant([1, 2]))

    def _layer(
        self,
        g: Graph,
        index: int,
        layer: TransformerLayer,
        x: str,
        past: tuple[str, str],
        size: int,
        hidden: str,
        runs: Runs | None,
    ) -> tuple[str, str, str]:
        """Run one layer: x (N, size, D) -> (N, C, D), and the keys and values to keep, each (N, 1, held, D).

        Of streams that do not run it x passes by.
        """
        attention, dim = layer.attention, self.encoder.dim
        y = self._norm(g, x, f"layers.{index}.norm1", layer.norm1)
        key, value = (
            g.concat([g.reshape(before_x, 0, self.held, dim), self._linear(g, index, name, linear, y)], 1)
            for name, linear, before_x in (("k", attention.k, past[0]), ("v", attention.v, past[1]))
        )
        if size > self.encoder.chunk:
            x, y = (g.slice(part, 1, 0, self.encoder.chunk) for part in (x, y))
        inner = g if runs is None else g.branch()
        query = self._linear(inner, index, "q", attention.q, y)
        y = self._linear(inner, index, "out", attention.out, self._attend(inner, query, key, value, size, hidden))
        passed, x = x, inner.op("Add", x, y)
        y = self._norm(inner, x, f"layers.{index}.norm2", layer.norm2)
        y = inner.op("Relu", self._linear(inner, index, "up", layer.up, y))
        x = inner.op("Add", x, self._linear(inner, index, "down", layer.down, y))
        if runs is not None:
            [x] = g.either(runs.any, inner, [inner.op("Where", runs.streams, x, passed)], [passed])
        return x, self._keep(g, key), self._keep(g, value)

    def _norm(self, g: Graph, x: str, name: str, norm: nn.LayerNorm) -> str:
        return g.layer_norm(x, g.weight(f"{name}.weight", norm.weight), g.weight(f"{name}.bias", norm.bias))

    def _attend(self, g: Graph, query: str, key: str, value: str, size: int, hidden: str) -> str:
        """Attend: query (N, C, D), key and value (N, held + size, D) -> (N, C, D)."""
        heads, dim, chunk, total = self.encoder.config.num_heads, self.encoder.dim, self.encoder.chunk, self.held + size
        width = dim // heads
        query, key, value = (
            g.reshape(part, 0, length, heads, width) for part, length in ((query, chunk), (key, total), (value, total))
        )
        cos, sin = (part.numpy()[:, None] for part in rotary_table(total, width, self.encoder.mean.device))
        here, scale = slice(self.held, self.held + chunk), width**-0.5
        query = g.op("Transpose", self._rotate(g, query, cos[here] * scale, sin[here] * scale), perm=[0, 2, 1, 3])
        key = g.op("Transpose", self._rotate(g, key, cos, sin), perm=[0, 2, 3, 1])
        weights = g.op("Softmax", g.op("Add", g.op("MatMul", query, key), hidden), axis=-1)
        y = g.op("MatMul", weights, g.op("Transpose", value, perm=[0, 2, 1, 3]))
        return g.reshape(g.op("Transpose", y, perm=[0, 2, 1, 3]), 0, chunk, dim)

    def _rotate(self, g: Graph, x: str, cos: np.ndarray, sin: np.ndarray) -> str:
        """Rotate x (N, J, H, D / H) by its positions' angles, as `attention.rotate`; cos and sin are (J, 1, D / H)."""
        half = cos.shape[-1] // 2
        rolled = g.concat(g.split(x, 3, [half, half])[::-1], 3)
        return g.op("Add", g.op("Mul", x, g.constant(cos, "float32")), g.op("Mul", rolled, g.constant(sin, "float32")))

    def _keep(self, g: Graph, part: str) -> str:
        """Return the newest `held` frames of past and chunk, (N, 1, held, D); the look-ahead is computed again."""
        kept = g.slice(part, 1, self.encoder.chunk, self.encoder.chunk + self.held)
        return g.op("Unsqueeze", kept, g.constant([1]))

    def _linear(self, g: Graph, index: int, name: str, linear: ResidualLinear, x: str) -> str:
        shared, bank, own = linear.shared, f"bank.{self.groups[index]}.{name}", f"layers.{index}.{name}"
        bias = g.weight(f"{bank}.bias", shared.bias)
        if self.merged and linear.has_residual:
            return g.op("Add", g.matmul(x, f"{own}.weight", linear.dense().T), bias)
        terms = [g.op("Add", g.matmul(x, f"{bank}.weight", shared.weight.T), bias)]
        if linear.A is not None and linear.B is not None:
            terms.append(g.matmul(g.matmul(x, f"{own}.A", linear.A), f"{own}.B", linear.B))
        if linear.D is not None:
            terms.append(_diagonal(g, x, f"{own}.D", linear.D, shared.in_features, shared.out_features))
        return g.op("Sum", *terms) if len(terms) > 1 else terms[0]


def _diagonal(g: Graph, x: str, name: str, diagonal: Tensor, m: int, n: int) -> str:
    """Multiply x (N, T, m) by the rectangular diagonal (m, n): (N, T, n)."""
    y = g.op("Mul", x if m <= n else g.slice(x, 2, 0, n), g.weight(name, diagonal))
    return y if m >= n else g.op("Pad", y, g.constant([0, 0, 0, 0, 0, n - m]))
