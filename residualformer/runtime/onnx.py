"""The three networks of an exported folder on onnxruntime.

Inputs and outputs are taken by their order, as sherpa-onnx takes them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from residualformer.errors import UserError
from residualformer.onnx_session import open_session, reason_of
from residualformer.runtime.model import Array, ExportedModel, State, stack
from residualformer.runtime.settings import SETTINGS_FILE, ModelSettings, Size, StateArray
from residualformer.runtime.weights import MappedWeights

ADVICE = "export the model again"


class Interface(NamedTuple):
    """The inputs of a network as (type, shape), the shape of its first output, and the number of its outputs."""

    inputs: list[tuple[str, list[Size]]]
    output: list[Size]
    num_outputs: int


class OnnxModel(ExportedModel):
    """The common part of both types of folders; `num_threads` are onnxruntime's.

    Args:
        adapted: weights of the encoder in the place of those in its file.
    """

    def __init__(
        self,
        folder: Path,
        settings: ModelSettings,
        int8: bool,
        num_threads: int = 1,
        adapted: Mapping[str, Array] | None = None,
    ):
        super().__init__(folder, settings, int8)
        sessions = [
            Session(
                path,
                interface,
                num_threads,
                keeps_memory=path is self._paths[0],
                adapted=adapted if path is self._paths[0] else None,
            )
            for path, interface in zip(self._paths, self._interfaces(settings), strict=True)
        ]
        self._check_metadata(*(session.metadata for session in sessions))
        self._encoder, self._decoder, self._joiner = sessions

    @abstractmethod
    def _interfaces(self, settings: ModelSettings) -> tuple[Interface, Interface, Interface]:
        """Return what the settings promise of encoder, decoder and joiner."""


class NemoModel(OnnxModel):
    """A folder of the type `nemo`: lengths are taken, the predictor has a state of two arrays (layers, hidden)."""

    def _interfaces(self, settings: ModelSettings) -> tuple[Interface, Interface, Interface]:
        bins, window, frames = settings.features.num_mel_bins, settings.window, settings.frames_per_step
        encoder, decoder = _types(settings.states.encoder), _types(settings.states.decoder)
        side: list[Size] = ["N", settings.joint_dim, 1]
        return (
            Interface(
                [("float32", ["N", bins, window]), ("int64", ["N"]), *encoder],
                ["N", settings.joint_dim, frames],
                num_outputs=2 + len(encoder),
            ),
            Interface([("int32", ["N", 1]), ("int32", ["N"]), *decoder], side, num_outputs=2 + len(decoder)),
            Interface([("float32", side), ("float32", side)], ["N", settings.vocab_size], num_outputs=1),
        )

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, _, *new = self._encoder(features.transpose(0, 2, 1), lengths, *stack(states))
        return frames.transpose(0, 2, 1), list(zip(*new, strict=True))

    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        ids, ones = np.array(labels, np.int32)[:, None], np.ones(len(labels), np.int32)
        out, _, h, c = self._decoder(ids, ones, *stack(states, axis=1))
        # Copies, because a view would keep the whole batch alive as long as one hypothesis lives.
        return [(out[n, :, 0].copy(), (h[:, n].copy(), c[:, n].copy())) for n in range(len(ids))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded[:, :, None], predicted[:, :, None])[0]


class EbranchformerModel(OnnxModel):
    """A folder of the type `ebranchformer`: a stateless predictor, no lengths."""

    takes_lengths = False

    def _interfaces(self, settings: ModelSettings) -> tuple[Interface, Interface, Interface]:
        states = settings.states.encoder
        side: list[Size] = ["N", settings.joint_dim]
        features: list[Size] = ["N", settings.window, settings.features.num_mel_bins]
        frames: list[Size] = ["N", settings.frames_per_step, settings.joint_dim]
        history: list[Size] = ["N", settings.predictor.num_previous + 1]
        return (
            Interface([("float32", features), *_types(states)], frames, num_outputs=1 + len(states)),
            Interface([("int64", history)], side, num_outputs=1),
            Interface([("float32", side), ("float32", side)], ["N", settings.vocab_size], num_outputs=1),
        )

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, *new = self._encoder(features, *stack(states))
        return frames, list(zip(*new, strict=True))

    def predictor_state(self) -> State:
        return (np.full(self._settings.predictor.num_previous, -1, np.int64),)

    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        histories = np.concatenate([stack(states)[0], np.array(labels, np.int64)[:, None]], axis=1)
        out = self._decoder(histories)[0]
        return [(out[n].copy(), (histories[n, 1:].copy(),)) for n in range(len(histories))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded, predicted)[0]


ONNX_MODELS: dict[str, type[OnnxModel]] = {"nemo": NemoModel, "ebranchformer": EbranchformerModel}


class Session:
    """One network; its memory is that of the weights and of the largest activations.

    Args:
        keeps_memory: of activations as well, which saves time; for a network whose batches are of few sizes.
        adapted: weights in the place of those in the file.

    Raises:
        UserError: the file does not load, or is not of `interface`.
    """

    def __init__(
        self,
        path: Path,
        interface: Interface,
        num_threads: int,
        keeps_memory: bool = False,
        adapted: Mapping[str, Array] | None = None,
    ):
        content = None if adapted is None else _with_weights(path, adapted)
        session = open_session(path, ADVICE, num_threads, keeps_memory, content)
        _check_interface(path, session, interface)
        self._path, self._run = path, session.run
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self._inputs = [node.name for node in session.get_inputs()]

    def __call__(self, *arrays: Array) -> list[Array]:
        """Return the outputs for the inputs, both in the order of the file; UserError when the network fails."""
        try:
            return self._run(None, dict(zip(self._inputs, arrays, strict=True)))
        except Exception as error:  # onnxruntime has an exception for each kind of fault
            raise UserError(f"{self._path} cannot be run ({reason_of(error)}): {ADVICE}.") from error


def _with_weights(path: Path, adapted: Mapping[str, Array]) -> bytes:
    weights = MappedWeights(path)
    weights.replace(adapted)
    return weights.content()


def _types(states: Sequence[StateArray]) -> list[tuple[str, list[Size]]]:
    return [(state.dtype, list(state.shape)) for state in states]


def _check_interface(path: Path, session: Any, interface: Interface) -> None:
    """Raise UserError when inputs or outputs of the file are not those that the settings promise."""
    names = {"float32": "tensor(float)", "int32": "tensor(int32)", "int64": "tensor(int64)"}
    inputs = [(node.type, _sizes(node)) for node in session.get_inputs()]
    outputs = session.get_outputs()
    fits = inputs == [(names[dtype], shape) for dtype, shape in interface.inputs]
    fits = fits and len(outputs) == interface.num_outputs and len(outputs[0].shape) == len(interface.output)
    # An output may have axes whose size onnxruntime does not know.
    if not fits or any(a not in ("N", b) for a, b in zip(_sizes(outputs[0]), interface.output, strict=True)):
        raise UserError(f"{path} and {SETTINGS_FILE} do not fit together: {ADVICE}.")


def _sizes(node: Any) -> list[Size]:
    """Return the shape of an input or output; axes without a fixed size are "N"."""
    return [size if isinstance(size, int) else "N" for size in node.shape]
