"""One step of the Transformer encoder as a graph: `TransformerEncoder.step`, with the state packed in few arrays."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from residualformer.errors import UserError
from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import StateShape, Step, before, normalised, whole
from residualformer.nn.attention import rotary_table
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.layer import TransformerLayer
from residualformer.nn.linear import ResidualLinear
from residualformer.nn.sharing import layer_groups
from residualformer.nn.subsampling import SUBSAMPLING
from residualformer.nn.transformer import TransformerEncoder

HIDDEN = -1e30  # added to the score of a frame that must not be seen; not -inf, whose softmax over a whole row is NaN


class TransformerGraph:
    """The encoder with the joiner's projection of its frames.

    Args:
        merged: one dense matrix for each projection of a layer instead of W, A, B and D apart.

    Raises:
        UserError: the look-back has no limit, so that the state would grow.
    """

    def __init__(self, encoder: TransformerEncoder, joiner: TanhJoiner | AdditiveJoiner, merged: bool) -> None:
        if encoder.left_context is None:
            raise UserError("encoder.look_back_ms is null: a growing state cannot be exported; train it with a limit.")
        self.encoder, self.joiner, self.merged = encoder, joiner, merged
        config = encoder.config
        self.frames_per_step = encoder.chunk
        self.held = max(encoder.left_context, 1)  # no array without elements; its one row is masked
        self.groups = layer_groups(config.sharing, config.num_layers)
        self.bins = encoder.mean.numel()
        self.front = self.bins, config.conv_channels * ((self.bins + 1) // 2)
        self.state = StateShape(2 * config.num_layers, self.held, config.dim, sum(self.front))

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """As `EncoderGraph.build`."""
        encoder = self.encoder
        real = None if length is None else before(g, encoder.window, length)
        x, front = self._subsample(g, normalised(g, encoder, x, real), state.front)
        ahead = None if length is None else whole(g, length, SUBSAMPLING)
        sizes = [encoder.window // SUBSAMPLING] + [encoder.chunk] * (len(encoder.layers) - 1)
        hidden = {size: self._hidden(g, size, state.seen, ahead) for size in sorted(set(sizes))}
        layers, keys, values = len(sizes), [], []
        for index, (layer, size) in enumerate(zip(encoder.layers, sizes, strict=True)):
            past = state.parts[index], state.parts[layers + index]
            x, key, value = self._layer(g, index, layer, x, past, size, hidden[size])
            keys.append(key)
            values.append(value)
        x = g.layer_norm(x, encoder.dim, None, None, None)
        project = self.joiner.project_encoder
        x = g.linear(x, "joiner.project_encoder", lambda: project.weight.T, lambda: project.bias)
        return Step(x, keys + values, front, g.Add(state.seen, g.constant(encoder.chunk)))

    def _subsample(self, g: Graph, x: str, front: str) -> tuple[str, str]:
        """Both convolutions over the whole window: x (N, window, F) -> (N, window / 4, D) and the next `front`."""
        convs, shift = self.encoder.subsampling, self.encoder.shift
        channels, half = self.encoder.config.conv_channels, (self.bins + 1) // 2
        last, after = g.split(front, 1, self.front)
        x = g.concat([g.reshape(last, 0, 1, 1, self.bins), g.Unsqueeze(x, g.constant([1]))], 2)
        y = self._convolve(g, x, "subsampling.conv1", convs.conv1)
        y = g.concat([g.reshape(after, 0, channels, 1, half), y], 2)
        z = self._convolve(g, y, "subsampling.conv2", convs.conv2)
        z = g.reshape(g.Transpose(z, perm=[0, 2, 1, 3]), 0, self.encoder.window // SUBSAMPLING, convs.out.in_features)
        kept = [g.slice(x, 2, shift, shift + 1), g.slice(y, 2, shift // 2, shift // 2 + 1)]
        front = g.concat([g.Flatten(part, axis=1) for part in kept], 1)
        return g.linear(z, "subsampling.out", lambda: convs.out.weight.T, lambda: convs.out.bias), front

    def _convolve(self, g: Graph, x: str, name: str, conv) -> str:
        weights = g.weight(f"{name}.weight", lambda: conv.weight), g.weight(f"{name}.bias", lambda: conv.bias)
        return g.Relu(g.Conv(x, *weights, strides=[2, 2], pads=[0, 1, 0, 1], kernel_shape=[3, 3]))

    def _hidden(self, g: Graph, size: int, seen: str, ahead: str | None) -> str:
        """(N, 1, 1, held + size): `HIDDEN` for what is empty of the past and not real of the window, else 0."""
        empty = g.Sub(g.constant(self.held), seen if self.encoder.left_context else g.constant([0]))
        allowed = g.Not(before(g, self.held + size, empty))
        if ahead is not None:
            allowed = g.And(allowed, before(g, self.held + size, g.Add(ahead, g.constant(self.held))))
        hidden = g.Where(allowed, g.constant(0, "float32"), g.constant(HIDDEN, "float32"))
        return g.Unsqueeze(hidden, g.constant([1, 2]))

    def _layer(
        self, g: Graph, index: int, layer: TransformerLayer, x: str, past: tuple[str, str], size: int, hidden: str
    ) -> tuple[str, str, str]:
        """x (N, size, D) -> (N, C, D), and the keys and values to keep, each (N, 1, held, D)."""
        attention, dim = layer.attention, self.encoder.dim
        y = g.layer_norm(x, dim, f"layers.{index}.norm1", lambda: layer.norm1.weight, lambda: layer.norm1.bias)
        key, value = (
            g.concat([g.reshape(before_x, 0, self.held, dim), self._linear(g, index, name, linear, y)], 1)
            for name, linear, before_x in (("k", attention.k, past[0]), ("v", attention.v, past[1]))
        )
        if size > self.encoder.chunk:
            x, y = (g.slice(part, 1, 0, self.encoder.chunk) for part in (x, y))
        query = self._linear(g, index, "q", attention.q, y)
        y = self._linear(g, index, "out", attention.out, self._attend(g, query, key, value, size, hidden))
        x = g.Add(x, y)
        y = g.layer_norm(x, dim, f"layers.{index}.norm2", lambda: layer.norm2.weight, lambda: layer.norm2.bias)
        y = g.Relu(self._linear(g, index, "up", layer.up, y))
        x = g.Add(x, self._linear(g, index, "down", layer.down, y))
        return x, self._keep(g, key), self._keep(g, value)

    def _attend(self, g: Graph, query: str, key: str, value: str, size: int, hidden: str) -> str:
        """query (N, C, D), key and value (N, held + size, D) -> (N, C, D)."""
        heads, dim, chunk, total = self.encoder.config.num_heads, self.encoder.dim, self.encoder.chunk, self.held + size
        width = dim // heads
        query, key, value = (
            g.reshape(part, 0, length, heads, width) for part, length in ((query, chunk), (key, total), (value, total))
        )
        cos, sin = (part.numpy()[:, None] for part in rotary_table(total, width, self.encoder.mean.device))
        here, scale = slice(self.held, self.held + chunk), width**-0.5
        query = g.Transpose(self._rotate(g, query, cos[here] * scale, sin[here] * scale), perm=[0, 2, 1, 3])
        key = g.Transpose(self._rotate(g, key, cos, sin), perm=[0, 2, 3, 1])
        weights = g.Softmax(g.Add(g.MatMul(query, key), hidden), axis=-1)
        y = g.MatMul(weights, g.Transpose(value, perm=[0, 2, 1, 3]))
        return g.reshape(g.Transpose(y, perm=[0, 2, 1, 3]), 0, chunk, dim)

    def _rotate(self, g: Graph, x: str, cos: np.ndarray, sin: np.ndarray) -> str:
        """x (N, J, H, D / H) by the angles of its positions, as `attention.rotate`; cos and sin are (J, 1, D / H)."""
        half = cos.shape[-1] // 2
        rolled = g.concat(g.split(x, 3, [half, half])[::-1], 3)
        return g.Add(g.Mul(x, g.constant(cos, "float32")), g.Mul(rolled, g.constant(sin, "float32")))

    def _keep(self, g: Graph, part: str) -> str:
        """The newest `held` frames of past and chunk, (N, 1, held, D); look-ahead is computed again."""
        kept = g.slice(part, 1, self.encoder.chunk, self.encoder.chunk + self.held)
        return g.Unsqueeze(kept, g.constant([1]))

    def _linear(self, g: Graph, index: int, name: str, linear: ResidualLinear, x: str) -> str:
        shared, bank, own = linear.shared, f"bank.{self.groups[index]}.{name}", f"layers.{index}.{name}"
        bias = g.weight(f"{bank}.bias", lambda: shared.bias)
        if self.merged and not (linear.A is None and linear.D is None):
            return g.Add(g.matmul(x, f"{own}.weight", lambda: linear.dense().T), bias)
        terms = [g.Add(g.matmul(x, f"{bank}.weight", lambda: shared.weight.T), bias)]
        if linear.A is not None:
            terms.append(g.matmul(g.matmul(x, f"{own}.A", lambda: linear.A), f"{own}.B", lambda: linear.B))
        if linear.D is not None:
            terms.append(_diagonal(g, x, f"{own}.D", linear.D, shared.in_features, shared.out_features))
        return g.Sum(*terms) if len(terms) > 1 else terms[0]


def _diagonal(g: Graph, x: str, name: str, diagonal: Tensor, m: int, n: int) -> str:
    """x (N, T, m) times the rectangular diagonal (m, n): (N, T, n)."""
    y = g.Mul(x if m <= n else g.slice(x, 2, 0, n), g.weight(name, lambda: diagonal))
    return y if m >= n else g.Pad(y, g.constant([0, 0, 0, 0, 0, n - m]))
