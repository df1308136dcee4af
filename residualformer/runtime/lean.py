"""A Transformer transducer of an exported folder in numpy, with one group's weights in memory at a time.

Following the introduction of ResidualTransformer (Wang and Li, 2023): a small device loads a shared set of weights,
runs the K layers that use it, and releases it. The weights are those of the folder's ONNX files, mapped into memory.
Matrices of 8 bits are multiplied as float32, a block at a time: weights are rounded, activations are not.

Shapes: N streams, T encoder frames of a window, D encoder.dim, H heads, P frames of left context, J the joint space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from residualformer.constants import FRAME_SHIFT_MS
from residualformer.errors import UserError
from residualformer.records import read_dataclass
from residualformer.runtime.model import Array, ExportedModel, State, stack
from residualformer.runtime.settings import Count, Milliseconds, ModelSettings, damaged
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

    def groups(self) -> list[int]:
        """Return the group of each layer."""
        if isinstance(self.sharing, list):
            return self.sharing
        return [layer // self.sharing for layer in range(self.num_layers)]


class LeanModel(ExportedModel):
    """Encoder, predictor and joiner without onnxruntime; UserError for an encoder that is no Transformer."""

    def __init__(self, folder: Path, settings: ModelSettings, int8: bool, adapted: Mapping[str, Array] | None = None):
        super().__init__(folder, settings, int8)
        self._blank_last = settings.type == "nemo"
        kind = settings.encoder.get("kind")
        if kind != "transformer":
            raise UserError(
                f"{folder} holds an encoder of kind '{kind}', but the memory-lean engine runs Transformers only: run "
                "it without."
            )
        weights = [MappedWeights(path) for path in self._paths]
        self._check_metadata(*(each.metadata for each in weights))
        encoder, self._decoder, self._joiner = weights
        encoder.replace(adapted or {})
        try:
            self._encoder = LeanEncoder(encoder, settings)
            self._check_predictor()
            self._check_joiner()
        except ValueError as error:
            raise damaged(folder, str(error)) from error

    def _check_joiner(self) -> None:
        """Raise ValueError when the settings are not those of the weights that lead to and from the joint space."""
        joint, size = self._settings.joint_dim, self._settings.vocab_size
        for part, weights in (("encoder", self._encoder.weights), ("predictor", self._decoder)):
            _require("joint_dim", weights.shape(f"joiner.project_{part}.weight")[1:] == (joint,))
        if "vocabulary.weight" in self._joiner:
            _require("vocab_size", self._joiner.shape("vocabulary.weight") == (joint, size))
        else:
            _require("vocab_size", joint == size)

    def _check_predictor(self) -> None:
        """Raise ValueError when the settings are not those of the predictor's weights."""
        predictor, weights = self._settings.predictor, self._decoder
        size, dim = weights.shape("embedding")
        _require("vocab_size", size == self._settings.vocab_size)
        if predictor.kind == "stateless":
            _require("predictor", weights.shape("conv.weight")[0] == dim * (predictor.num_previous + 1))
            return
        _require("states.decoder", len(self._settings.states.decoder) == 2)
        for state in self._settings.states.decoder:
            _require("states.decoder", state.dtype == "float32" and len(state.shape) == 3 and state.shape[1] == "N")
            layers, _, hidden = state.shape
            _require("states.decoder", isinstance(layers, int) and f"lstm.{layers}.recurrent.weight" not in weights)
            _require("states.decoder", weights.shape("lstm.0.recurrent.weight")[0] == hidden)
            _require("states.decoder", f"lstm.{int(layers) - 1}.recurrent.weight" in weights)

    def encoder_state(self) -> State:
        return self._encoder.state()

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        return self._encoder.step(features, lengths, states)

    def predictor_state(self) -> State:
        if self._settings.predictor.kind == "stateless":
            return (np.zeros(self._settings.predictor.num_previous, np.int64),)
        return super().predictor_state()

    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        ids = np.array(labels, np.int64)
        if self._blank_last:
            ids = (ids + 1) % len(self.pieces)  # the numbering of training, where the blank comes first
        stateless = self._settings.predictor.kind == "stateless"
        out, *new = self._convolve(ids, states) if stateless else self._recur(ids, states)
        out = self._decoder.linear(out, "joiner.project_predictor")
        self._decoder.release()
        return [(out[n].copy(), tuple(part[n].copy() for part in new)) for n in range(len(ids))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        if "vocabulary.weight" in self._joiner:
            logits = self._joiner.linear(np.tanh(encoded + predicted), "vocabulary")
            self._joiner.release()
            return logits
        return np.roll(encoded + predicted, -1, axis=1) if self._blank_last else encoded + predicted

    def _recur(self, ids: Array, states: Sequence[State]) -> tuple[Array, Array, Array]:
        """Run LSTM layers: ids (N,) -> output (N, hidden), and h and c, each (N, layers, hidden)."""
        h, c = (np.array(part) for part in stack(states))
        x = self._decoder.rows("embedding", ids)
        for layer in range(h.shape[1]):
            gates = self._decoder.linear(x, f"lstm.{layer}.input")
            gates += self._decoder.product(h[:, layer], f"lstm.{layer}.recurrent.weight")
            i, f, candidate, o = np.split(gates, 4, axis=1)
            c[:, layer] = _sigmoid(f) * c[:, layer] + _sigmoid(i) * np.tanh(candidate)
            x = h[:, layer] = _sigmoid(o) * np.tanh(c[:, layer])
            self._decoder.release()
        return x, h, c

    def _convolve(self, ids: Array, states: Sequence[State]) -> tuple[Array, Array]:
        """Run a stateless predictor: ids (N,) -> output (N, hidden), and the last labels (N, context_size - 1)."""
        history = np.concatenate([stack(states)[0], ids[:, None]], axis=1)
        x = self._decoder.rows("embedding", history.ravel()).reshape(len(ids), -1)
        return np.maximum(self._decoder.linear(x, "conv"), 0), history[:, 1:]


class LeanEncoder:
    """`TransformerEncoder.step` of nn/encoder.py, group by group.

    The state of a stream: keys and values (layers, 2, P, D), the number of encoder frames seen, and the last frame
    before each convolution, (1, 1, F), (channels, 1, ceil(F / 2)) and so on.

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
        self._chunk, self._size = settings.frames_per_step, settings.window // settings.subsampling
        self._left_context = math.ceil(config.left_context_ms / (FRAME_SHIFT_MS * self._stride))
        groups = config.groups()
        self._check(config, settings, groups)
        self._groups = [(group, list(layers)) for group, layers in groupby(range(self._layers), groups.__getitem__)]
        self._table = _rotary_table(self._left_context + self._size, self._dim // self._heads)

    def _check(self, config: TransformerSettings, settings: ModelSettings, groups: list[int]) -> None:
        """Raise ValueError when the settings are not those of the weights."""
        convolutions = self._stride.bit_length() - 1
        _require("subsampling", self._stride == 2**convolutions)
        _require("subsampling", f"subsampling.conv{convolutions}.weight" in self.weights)
        _require("subsampling", f"subsampling.conv{convolutions + 1}.weight" not in self.weights)
        _require("encoder.num_layers", f"layers.{self._layers}.norm1.weight" not in self.weights)
        _require("encoder.num_layers", f"layers.{self._layers - 1}.norm1.weight" in self.weights)
        _require("encoder.dim", self.weights.shape("layers.0.norm1.weight") == (self._dim,))
        _require("encoder.num_heads", self._dim % (2 * self._heads) == 0)
        _require("encoder.conv_channels", self.weights.shape("subsampling.conv1.weight")[0] == self._channels)
        _require("features.num_mel_bins", self.weights.shape("mean") == (self._bins,))
        _require("encoder.sharing", len(groups) == self._layers)
        _require("encoder.sharing", all(f"bank.{group}.q.bias" in self.weights for group in groups))
        shapes = [state.shape for state in settings.states.encoder]
        kept = [shape[2] for shape in shapes if len(shape) == 4 and shape[3] == self._dim]
        _require("encoder.left_context_ms", max(self._left_context, 1) in kept)  # keys and values

    def state(self) -> State:
        past = np.zeros((self._layers, 2, self._left_context, self._dim), np.float32)
        front, inputs, bins = [], 1, self._bins
        for _ in range(self._stride.bit_length() - 1):
            front.append(np.zeros((inputs, 1, bins), np.float32))
            inputs, bins = self._channels, (bins + 1) // 2
        return past, np.zeros((), np.int64), *front

    def step(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        """Encode one chunk, as `ExportedModel.encode`."""
        past, seen, *front = stack(states)
        past = past.copy()  # is changed
        x = (features - self.weights.small("mean")) / self.weights.small("std")
        x[np.arange(x.shape[1]) >= lengths[:, None]] = 0
        x, front = self._subsample(x, front)
        self.weights.release()
        hidden = self._hidden(seen, -(-lengths // self._stride))
        for group, layers in self._groups:
            for layer in layers:
                x, past[:, layer] = self._layer(layer, group, x, past[:, layer], hidden)
                hidden = hidden[..., : self._left_context + self._chunk]  # look-ahead is for the first layer alone
            self.weights.release()
        x = self._rowwise(lambda rows: self.weights.linear(_normalized(rows), "joiner.project_encoder"), x)
        self.weights.release()
        return x, list(zip(past, seen + self._chunk, *front, strict=True))

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

    def _layer(self, layer: int, group: int, x: Array, past: Array, hidden: Array) -> tuple[Array, Array]:
        """Run one layer: x (N, T, D), past (N, 2, P, D) -> (N, chunk, D) and the new past."""

        def linear(name: str, x: Array) -> Array:
            return self._rowwise(lambda rows: self._linear(layer, group, name, rows), x)

        y = self._norm(f"layers.{layer}.norm1", x)
        keys, values = (np.concatenate([past[:, i], linear(name, y)], axis=1) for i, name in enumerate(("k", "v")))
        x, y = x[:, : self._chunk], y[:, : self._chunk]
        x = x + linear("out", self._attend(linear("q", y), keys, values, hidden))
        y = self._norm(f"layers.{layer}.norm2", x)
        x = x + linear("down", np.maximum(linear("up", y), 0))
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


def _require(key: str, fits: bool) -> None:
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


def _sigmoid(x: Array) -> Array:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # never overflows
