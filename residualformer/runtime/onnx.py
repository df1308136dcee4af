"""The three networks of an exported folder on onnxruntime.

Inputs and outputs are taken by their order, as sherpa-onnx takes them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from residualformer.errors import UserError
from residualformer.runtime.model import Array, ExportedModel, State, stack


class OnnxModel(ExportedModel):
    """What both types of folders have in common."""

    def __init__(self, folder: Path, card: dict[str, Any], int8: bool, num_threads: int = 1):
        super().__init__(folder, card, int8)
        self._encoder = _Session(self._paths[0], num_threads, keeps_memory=True)
        self._decoder, self._joiner = (_Session(path, num_threads) for path in self._paths[1:])
        self._check_metadata(self._encoder.metadata, self._decoder.metadata, self._joiner.metadata)


class NemoModel(OnnxModel):
    """A folder of the type `nemo`: lengths are taken, the predictor has a state of two arrays (layers, hidden)."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.tail_s = 0.0

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, _, *new = self._encoder(features.transpose(0, 2, 1), lengths, *stack(states))
        return frames.transpose(0, 2, 1), list(zip(*new, strict=True))

    def predictor_state(self) -> State:
        return self._zeros("decoder")

    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        ids, ones = np.array(labels, np.int32)[:, None], np.ones(len(labels), np.int32)
        out, _, h, c = self._decoder(ids, ones, *stack(states, axis=1))
        # Copies, because a view would keep the whole batch alive as long as one hypothesis lives.
        return [(out[n, :, 0].copy(), (h[:, n].copy(), c[:, n].copy())) for n in range(len(ids))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded[:, :, None], predicted[:, :, None])[0]


class EbranchformerModel(OnnxModel):
    """A folder of the type `ebranchformer`: a stateless predictor, no lengths."""

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, *new = self._encoder(features, *stack(states))
        return frames, list(zip(*new, strict=True))

    def predictor_state(self) -> State:
        return (np.full(self._card["predictor"]["context_size"] - 1, -1, np.int64),)

    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        histories = np.concatenate([stack(states)[0], np.array(labels, np.int64)[:, None]], axis=1)
        out = self._decoder(histories)[0]
        return [(out[n].copy(), (histories[n, 1:].copy(),)) for n in range(len(histories))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded, predicted)[0]


ONNX_MODELS = {"nemo": NemoModel, "ebranchformer": EbranchformerModel}


class _Session:
    """One network; its memory is that of the weights and of the largest activations.

    `keeps_memory`: of activations as well, which saves time; for a network whose batch is of few sizes.
    """

    def __init__(self, path: Path, num_threads: int, keeps_memory: bool = False):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = keeps_memory  # in both, sizes of batches add up
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights: exactly
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception for each kind of damage
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{path} cannot be loaded ({reason}): export the model again.") from error
        _give_back()
        self._run = session.run
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self._inputs = [node.name for node in session.get_inputs()]

    def __call__(self, *arrays: Array) -> list[Array]:
        return self._run(None, dict(zip(self._inputs, arrays, strict=True)))


def _give_back() -> None:
    """Return to the system what loading has freed, 100 MB of the paper's; of C libraries glibc alone can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
