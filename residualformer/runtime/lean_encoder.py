"""The Transformer encoder of the memory-lean engine, with one group's weights in memory at a time.

Shapes: N streams, T encoder frames of a window, D encoder.dim, H heads, P frames of left context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated

import numpy as np
from annotated_types import Ge

from residualformer.config.depth import DepthConfig
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.records import read_dataclass
from residualformer.runtime.lean_recurrent import LeanArbitrator
from residualformer.runtime.model import Array, State, stack
from residualformer.runtime.settings import Count, Milliseconds, ModelSettings
from residualformer.runtime.weights import MappedWeights

HIDDEN = np.float32(-1e30)  # added to the score of a frame that must not be seen


@dataclass(frozen=True)
class TransformerSettings:
    """The keys of `encoder` in `model.json` that the layers need."""

    num_layers: Count
    dim: Count
    num_heads: Count
    conv_channels: Count
    left_context_ms: Milliseconds
    sharing: Count | list[Annotated[int, Ge(0)]]
    depth: DepthConfig = field(default_factory=DepthConfig)

    def groups(self) -> list[int]:
        """Return the group of each layer."""
        if isinstance(self.sharing, list):
            return self.sharing
        return [layer // self.sharing for layer in range(self.num_layers)]

    def runs(self) -> list[int]:
        """Return for each layer at how many depths, which are the first, it is run."""
        groups, served = self.groups(), self.depth.loops
        loops = [groups[: layer + 1].count(group) for layer, group in enumerate(groups)]
        return [sum(loop <= each for each in served) for loop in loops]


class LeanEncoder:
    """`TransformerEncoder.step` of nn/transformer.py, group by group.

    The state of a stream: keys and values (layers, 2, P, D), the number of encoder frames seen, and the last frame
    before each convolution, (1, 1, F), (channels, 1, ceil(F / 2)) and so on; then the arbitrator's, if there is one.

    Raises:
        ValueError: the settings are not those of the weights.
    """

    def __init__(self, weights: MappedWeights, settings: ModelSettings):
        self.weights = weights
        former = {"look_back_ms": "left_context_ms"}  # the name of a key in older folders
        encoder = {former.get(key, key): value for key, value in settings.encoder.items()}
        config = read_dataclass(TransformerSettings, encoder, "encoder")
        self._heads, self._layers, self._dim = config.num_heads, config.num_layers, config.dim
        self._bins, self._channels = settings.features.num_mel_bins, config.conv_channels
        self._stride, self._shift = settings.subsampling, settings.shift
        self._convolutions = self._stride.bit_length() - 1
        self._chunk, self._size = settings.frames_per_step, settings.window // settings.subsampling
        self._left_context = math.ceil(config.left_context_ms / (FRAME_SHIFT_MS * self._stride))
        groups = config.groups()
        self._check(config, settings, groups)
        self._arbitrator: LeanArbitrator | None = None
        self._runs = [1] * self._layers
        if "arbitrator.out.weight" in weights:
            self._arbitrator, self._runs = LeanArbitrator(weights), config.runs()
            require("branches", settings.branches == self._arbitrator.num_depths)
            require("encoder.depth.loops", len(config.depth.loops) == self._arbitrator.num_depths)
        self._groups = [(group, list(layers)) for group, layers in groupby(range(self._layers), groups.__getitem__)]
        self._table = _rotary_table(self._left_context + self._size, self._dim // self._heads)

    def _check(self, config: TransformerSettings, settings: ModelSettings, groups: list[int]) -> None:
        """Raise ValueError when the settings are not those of the weights."""
        convolutions = self._convolutions
        require("subsampling", self._stride == 2**convolutions)
        require("subsampling", f"subsampling.conv{convolutions}.weight" in self.weights)
        require("subsampling", f"subsampling.conv{convolutions + 1}.weight" not in self.weights)
        require("encoder.num_layers", f"layers.{self._layers}.norm1.weight" not in self.weights)
        require("encoder.num_layers", f"layers.{self._layers - 1}.norm1.weight" in self.weights)
        require("encoder.dim", self.weights.shape("layers.0.norm1.weight") == (self._dim,))
        require("encoder.num_heads", self._dim % (2 * self._heads) == 0)
        require("encoder.conv_channels", self.weights.shape("subsampling.conv1.weight")[0] == self._channels)
        require("features.num_mel_bins", self.weights.shape("mean") == (self._bins,))
        require("encoder.sharing", len(groups) == self._layers)
        require("encoder.sharing", all(f"bank.{group}.q.bias" in self.weights for group in groups))
        shapes = [state.shape for state in settings.states.encoder]
        kept = [shape[2] for shape in shapes if len(shape) == 4 and shape[3] == self._dim]
        require("encoder.left_context_ms", max(self._left_context, 1) in kept)  # keys and values

    def state(self) -> State:
        past = np.zeros((self._layers, 2, self._left_context, self._dim), np.float32)
        front, inputs, bins = [], 1, self._bins
        for _ in range(self._convolutions):
            front.append(np.zeros((inputs, 1, bins), np.float32))
            inputs, bins = self._channels, (bins + 1) // 2
        return past, np.zeros((), np.int64), *front, *(self._arbitrator.state() if self._arbitrator else ())

    def step(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        """Encode one chunk, as `ExportedModel.encode`."""
        past, seen, *rest = stack(states)
        past = past.copy()  # is changed
        front, decided = rest[: self._convolutions], rest[self._convolutions :]
        real = -(-lengths // self._stride)
        x = (features - self.weights.small("mean")) / self.weights.small("std")
        x[np.arange(x.shape[1]) >= lengths[:, None]] = 0
        x, front = self._subsample(x, front)
        depth = np.zeros(len(x), np.int64)
        if self._arbitrator is not None:
            decided = self._arbitrator.decide(self._heard(x, real), decided)
            depth = decided[-1]
        self.weights.release()
        hidden = self._hidden(seen, real)
        for group, layers in self._groups:
            for layer in layers:
                x, past[:, layer] = self._layer(layer, group, x, past[:, layer], hidden, depth < self._runs[layer])
                hidden = hidden[..., : self._left_context + self._chunk]  # look-ahead is for the first layer alone
            self.weights.release()
        x = self._rowwise(lambda rows: self.weights.linear(_normalized(rows), "joiner.project_encoder"), x)
        self.weights.release()
        return x, list(zip(past, seen + self._chunk, *front, *decided, strict=True))

    def _heard(self, x: Array, real: Array) -> Array:
        """Return what the arbitrator sees of x (N, T, D), of which `real` (N,) frames are: (N, chunk D)."""
        heard = _normalized(x[:, : self._chunk])
        heard[np.arange(self._chunk) >= real[:, None]] = 0
        return heard.reshape(len(x), -1)

    def _subsample(self, x: Array, front: list[Array]) -> tuple[Array, list[Array]]:
        """Run the convolutions over the window (N, window, F); return (N, T, D) and the next state of each."""
        x, shift, kept = x[:, None], self._shift, []
        for number, before in enumerate(front, 1):
            x = np.concatenate([before, x], axis=2)
            kept.append(x[:, :, shift : shift + 1])
            x, shift = np.stack([self._convolve(one, f"subsampling.conv{number}") for one in x]), shift // 2
        x = x.transpose(0, 2, 1, 3)  # (N, T, channels, bins)
        x = self._rowwise(lambda rows: self.weights.linear(rows, "subsampling.out"), x.reshape(*x.shape[:2], -1))
        return x, kept

    def _convolve(self, x: Array, name: str) -> Array:
        """Apply a 3 x 3 convolution of stride 2 and ReLU: (C, 1 + T, F) -> (C', T / 2, ceil(F / 2))."""
        x = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
        _, frames, bins, *_ = patches.shape
        rows = patches.transpose(1, 2, 0, 3, 4).reshape(frames * bins, -1)
        y = self.weights.product_transposed(rows, f"{name}.weight")
        return np.maximum(y + self.weights.small(f"{name}.bias"), 0).T.reshape(-1, frames, bins)

    def _hidden(self, seen: Array, real: Array) -> Array:
        """Return (N, 1, 1, P + T): `HIDDEN` where the past is empty or the window is padding, else 0."""
        position = np.arange(self._left_context + self._size)
        allowed = position >= self._left_context - seen[:, None]
        allowed &= position < self._left_context + real[:, None]
        return np.where(allowed, np.float32(0), HIDDEN)[:, None, None]

    def _layer(self, layer: int, group: int, x: Array, past: Array, hidden: Array, runs: Array) -> tuple[Array, Array]:
        """Run one layer: x (N, T, D), past (N, 2, P, D) -> (N, chunk, D) and the new past.

        Of streams that do not run it, by `runs` (N,), x passes by.
        """

        def linear(name: str, x: Array) -> Array:
            return self._rowwise(lambda rows: self._linear(layer, group, name, rows), x)

        y = self._norm(f"layers.{layer}.norm1", x)
        keys, values = (np.concatenate([past[:, i], linear(name, y)], axis=1) for i, name in enumerate(("k", "v")))
        x = x[:, : self._chunk].copy()
        if runs.any():
            rows = slice(None) if runs.all() else runs  # all rows without a copy
            query = linear("q", y[rows, : self._chunk])
            own = x[rows] + linear("out", self._attend(query, keys[rows], values[rows], hidden[rows]))
            y = self._norm(f"layers.{layer}.norm2", own)
            x[rows] = own + linear("down", np.maximum(linear("up", y), 0))
        kept = slice(self._chunk, self._chunk + self._left_context)
        return x, np.stack([keys[:, kept], values[:, kept]], axis=1)

    def _attend(self, q: Array, k: Array, v: Array, hidden: Array) -> Array:
        """Attend with rotary positions, as nn/attention.py: q (N, C, D), k and v (N, P + T, D) -> (N, C, D)."""
        q, k, v = (part.reshape(*part.shape[:2], self._heads, -1).transpose(0, 2, 1, 3) for part in (q, k, v))
        cos, sin = (part[: k.shape[2]] for part in self._table)
        here = slice(self._left_context, self._left_context + self._chunk)
        q, k = _rotate(q, cos[here], sin[here]), _rotate(k, cos, sin)
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(q.shape[3])) + hidden
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        y = weights / weights.sum(axis=3, keepdims=True) @ v
        return y.transpose(0, 2, 1, 3).reshape(len(y), self._chunk, -1)

    def _linear(self, layer: int, group: int, name: str, x: Array) -> Array:
        """Return (W + A·B + D)ᵀ x + b of rows x (T, M), factor by factor, or by the layer's own dense matrix."""
        weights, own, bank = self.weights, f"layers.{layer}.{name}", f"bank.{group}.{name}"
        if f"{own}.weight" in weights:
            return weights.product(x, f"{own}.weight") + weights.small(f"{bank}.bias")
        y = weights.linear(x, bank)
        if f"{own}.A" in weights:
            y += weights.product(weights.product(x, f"{own}.A"), f"{own}.B")
        if f"{own}.D" in weights:
            diagonal = weights.small(f"{own}.D")
            y[:, : len(diagonal)] += x[:, : len(diagonal)] * diagonal
        return y

    def _norm(self, name: str, x: Array) -> Array:
        return _normalized(x) * self.weights.small(f"{name}.weight") + self.weights.small(f"{name}.bias")

    def _rowwise(self, function: Callable[[Array], Array], x: Array) -> Array:
        """Apply a function of rows (N T, M) to x (N, T, M)."""
        return function(x.reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1)


def require(key: str, fits: bool) -> None:
    """Raise ValueError unless the setting `key` fits the weights."""
    if not fits:
        raise ValueError(f"{key} does not fit the weights")


def _normalized(x: Array) -> Array:
    """Normalize to mean 0 and variance 1 over the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(1e-5))


def _rotary_table(length: int, head_dim: int) -> tuple[Array, Array]:
    """Return cos and signed sin (length, D / H), as nn/attention.py has them."""
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.hstack([cos, cos]).astype(np.float32), np.hstack([-sin, sin]).astype(np.float32)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    return x * cos + np.roll(x, x.shape[-1] // 2, axis=-1) * sin
