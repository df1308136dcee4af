"""A Transformer transducer of an exported folder in numpy, with one group's weights in memory at a time.

Following the introduction of ResidualTransformer (Wang and Li, 2023): a small device loads a shared set of weights,
runs the K layers that use it, and releases it. The weights are those of the folder's ONNX files, mapped into memory.
Matrices of 8 bits are multiplied as float32, a block at a time: weights are rounded, activations are not.

Shapes: N streams, J the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from residualformer.errors import UserError
from residualformer.runtime.lean_encoder import LeanEncoder, require
from residualformer.runtime.lean_recurrent import lstm_step
from residualformer.runtime.model import Array, ExportedModel, State, stack
from residualformer.runtime.settings import ModelSettings, damaged
from residualformer.runtime.weights import MappedWeights


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
            require("joint_dim", weights.shape(f"joiner.project_{part}.weight")[1:] == (joint,))
        if "vocabulary.weight" in self._joiner:
            require("vocab_size", self._joiner.shape("vocabulary.weight") == (joint, size))
        else:
            require("vocab_size", joint == size)

    def _check_predictor(self) -> None:
        """Raise ValueError when the settings are not those of the predictor's weights."""
        predictor, weights = self._settings.predictor, self._decoder
        size, dim = weights.shape("embedding")
        require("vocab_size", size == self._settings.vocab_size)
        if predictor.kind == "stateless":
            require("predictor", weights.shape("conv.weight")[0] == dim * (predictor.num_previous + 1))
            return
        require("states.decoder", len(self._settings.states.decoder) == 2)
        for state in self._settings.states.decoder:
            require("states.decoder", state.dtype == "float32" and len(state.shape) == 3 and state.shape[1] == "N")
            layers, _, hidden = state.shape
            require("states.decoder", isinstance(layers, int) and f"lstm.{layers}.recurrent.weight" not in weights)
            require("states.decoder", weights.shape("lstm.0.recurrent.weight")[0] == hidden)
            require("states.decoder", f"lstm.{int(layers) - 1}.recurrent.weight" in weights)

    def encoder_state(self) -> State:
        return self._encoder.state()

    def branch(self, state: State) -> int | None:
        return None if self.num_branches == 1 else int(state[-1])

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
            x, c[:, layer] = lstm_step(self._decoder, f"lstm.{layer}", x, h[:, layer], c[:, layer])
            h[:, layer] = x
            self._decoder.release()
        return x, h, c

    def _convolve(self, ids: Array, states: Sequence[State]) -> tuple[Array, Array]:
        """Run a stateless predictor: ids (N,) -> output (N, hidden), and the last labels (N, context_size - 1)."""
        history = np.concatenate([stack(states)[0], ids[:, None]], axis=1)
        x = self._decoder.rows("embedding", history.ravel()).reshape(len(ids), -1)
        return np.maximum(self._decoder.linear(x, "conv"), 0), history[:, 1:]
