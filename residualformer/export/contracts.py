"""The two kinds of sherpa-onnx's online transducers that our models fit: inputs, outputs and metadata of three files.

sherpa-onnx takes inputs and outputs by their order; the names are ours. Features, states, limits: docs/format.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import onnx
from onnx import TensorProto

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import EncoderGraph, Step, ceil_divide
from residualformer.export.predictor_graphs import logits, lstm_step, projected, stateless_step
from residualformer.nn.predictor import LSTMPredictor, StatelessPredictor
from residualformer.nn.transducer import Transducer
from residualformer.runtime.settings import Size, StateArray

BATCH: Literal["N"] = "N"


class Models(NamedTuple):
    """The three files of a folder."""

    encoder: onnx.ModelProto
    decoder: onnx.ModelProto
    joiner: onnx.ModelProto


class Contract(ABC):
    """A kind of model of sherpa-onnx."""

    name: ClassVar[Literal["nemo", "ebranchformer"]]  # its `type` in `model.json`
    preset: ClassVar[str]  # the features that sherpa-onnx computes for it
    blank_last: ClassVar[bool]  # the blank has the last id instead of 0
    predictors: ClassVar[tuple[str, ...]]  # kinds of predictors that fit
    symbols_per_frame: ClassVar[int]  # labels that sherpa-onnx's greedy search lets one frame write
    encoder_states: list[StateArray]  # in the order of the inputs, as the next
    decoder_states: list[StateArray]

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None:
        self.model, self.encoder = model, encoder
        self.joint_dim = model.joiner.project_encoder.out_features

    def models(self, int8: bool) -> Models:
        """Return the three models, in fp32 or with weights of 8 bits."""
        return Models(self._encoder(Graph(int8)), self._decoder(Graph(int8)), self._joiner(Graph(int8)))

    @abstractmethod
    def _encoder(self, g: Graph) -> onnx.ModelProto: ...

    @abstractmethod
    def _decoder(self, g: Graph) -> onnx.ModelProto: ...

    @abstractmethod
    def _joiner(self, g: Graph) -> onnx.ModelProto: ...


class Nemo(Contract):
    """NeMo's streaming transducers: a predictor with a state, several labels per frame, the blank last."""

    name = "nemo"
    preset = "sherpa"
    blank_last = True
    predictors = ("lstm", "stateless")
    symbols_per_frame = 10

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None:
        super().__init__(model, encoder)
        shape, config = encoder.state, model.predictor.config
        self.encoder_states = [
            _state("cache_last_channel", [BATCH, shape.parts, shape.rows, shape.size]),
            _state("cache_last_time", [BATCH, 1, 1, shape.front]),
            _state("cache_last_channel_len", [BATCH], "int64"),
        ]
        size: list[Size] = [config.num_layers, BATCH, config.hidden_dim]
        if config.kind == "stateless":  # carries the labels before the newest one, as numbers, 0 being the start
            size = [1, BATCH, max(config.context_size - 1, 1)]
        self.decoder_states = [_state(f"state_{index}", size) for index in range(2)]

    def _encoder(self, g: Graph) -> onnx.ModelProto:
        encoder, shape = self.model.encoder, self.encoder.state
        x = g.input("audio_signal", "float32", [BATCH, encoder.mean.numel(), encoder.window])
        length = g.input("length", "int64", [BATCH])
        channel, front, seen = _inputs(g, self.encoder_states)
        state = Step("", g.split(channel, 1, [1] * shape.parts), g.reshape(front, 0, shape.front), seen)
        found = self.encoder.build(g, g.op("Transpose", x, perm=[0, 2, 1]), length, state)
        real = ceil_divide(g, g.op("Min", length, g.constant([encoder.shift])), encoder.stride)
        size: list[Size] = [BATCH, self.joint_dim, self.encoder.frames_per_step]
        g.output("outputs", g.op("Transpose", found.frames, perm=[0, 2, 1]), "float32", size)
        g.output("encoded_lengths", real, "int64", [BATCH])
        values = g.concat(found.parts, 1), g.reshape(found.front, 0, 1, 1, shape.front), found.seen
        _outputs(g, self.encoder_states, values)
        layers, _, hidden = self.decoder_states[0].shape
        dims = {
            f"{state.input}_dim{axis}": size
            for state in self.encoder_states[:2]
            for axis, size in enumerate(state.shape[1:], start=1)
        }
        settings = {
            "vocab_size": self.model.vocab_size - 1,
            "window_size": encoder.window,
            "chunk_shift": encoder.shift,
            "subsampling_factor": encoder.stride,
            "pred_rnn_layers": layers,
            "pred_hidden": hidden,
            "normalize_type": "",
        }
        return g.model("encoder", settings | dims)

    def _decoder(self, g: Graph) -> onnx.ModelProto:
        predictor = self.model.predictor
        target, length = g.input("targets", "int32", [BATCH, 1]), g.input("target_length", "int32", [BATCH])
        states = _inputs(g, self.decoder_states)
        label = g.op("Add", g.op("Cast", target, to=TensorProto.INT64), g.constant(1))
        label = g.op("Mod", label, g.constant(self.model.vocab_size))  # (N, 1), in the numbering of training
        if isinstance(predictor, LSTMPredictor):
            y, *states = lstm_step(g, predictor, label, *states)
        elif predictor.config.context_size == 1:
            y = stateless_step(g, predictor, label)
        else:
            previous = g.op("Cast", g.op("Squeeze", states[0], g.constant([0])), to=TensorProto.INT64)
            history = g.concat([previous, label], 1)
            y = stateless_step(g, predictor, history)
            kept = g.slice(history, 1, 1, predictor.config.context_size)
            states[0] = g.op("Unsqueeze", g.op("Cast", kept, to=TensorProto.FLOAT), g.constant([0]))
        y = g.op("Unsqueeze", projected(g, self.model.joiner, y), g.constant([2]))
        g.output("outputs", y, "float32", [BATCH, self.joint_dim, 1])
        g.output("prednet_lengths", length, "int32", [BATCH])
        _outputs(g, self.decoder_states, states)
        return g.model("decoder", {})

    def _joiner(self, g: Graph) -> onnx.ModelProto:
        size: list[Size] = [BATCH, self.joint_dim, 1]
        encoded, predicted = (
            g.op("Squeeze", g.input(name, "float32", size), g.constant([2]))
            for name in ("encoder_outputs", "decoder_outputs")
        )
        found = logits(g, self.model.joiner, encoded, predicted, blank_last=True)
        g.output("logits", found, "float32", [BATCH, self.model.vocab_size])
        return g.model("joiner", {})


class EBranchformer(Contract):
    """icefall's E-Branchformer transducers: a stateless predictor, one label per frame, the blank first.

    The metadata describe an E-Branchformer of one layer whose state has the size of ours.
    """

    name = "ebranchformer"
    preset = "kaldi"
    blank_last = False
    predictors = ("stateless",)
    symbols_per_frame = 1

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None:
        super().__init__(model, encoder)
        self.decoder_states = []
        shape = encoder.state
        half: list[Size] = [BATCH, shape.parts // 2, shape.rows, shape.size]
        self.encoder_states = [
            _state("key", half),
            _state("value", half),
            _state("front", [BATCH, shape.front, 1]),
            _state("unused", [BATCH, 2, 1]),
            _state("processed", [BATCH], "int64"),
        ]

    def _encoder(self, g: Graph) -> onnx.ModelProto:
        encoder, shape, half = self.model.encoder, self.encoder.state, self.encoder.state.parts // 2
        x = g.input("x", "float32", [BATCH, encoder.window, encoder.mean.numel()])
        key, value, front, unused, seen = _inputs(g, self.encoder_states)
        parts = [part for each in (key, value) for part in g.split(each, 1, [1] * half)]
        found = self.encoder.build(g, x, None, Step("", parts, g.reshape(front, 0, shape.front), seen))
        g.output("encoder_out", found.frames, "float32", [BATCH, self.encoder.frames_per_step, self.joint_dim])
        halves = g.concat(found.parts[:half], 1), g.concat(found.parts[half:], 1)
        _outputs(g, self.encoder_states, (*halves, g.reshape(found.front, 0, shape.front, 1), unused, found.seen))
        settings = {
            "model_type": "ebranchformer",
            "T": encoder.window,
            "decode_chunk_len": encoder.shift,
            "num_hidden_layers": 1,
            "num_heads": half,
            "left_context_len": shape.rows,
            "head_dim": shape.size,
            "intermediate_size": 2 * shape.front,
            "csgu_kernel_size": 2,
            "hidden_size": 1,
            "merge_conv_kernel": 2,
        }
        return g.model("encoder", settings)

    def _decoder(self, g: Graph) -> onnx.ModelProto:
        predictor = self.model.predictor
        assert isinstance(predictor, StatelessPredictor)
        context = predictor.config.context_size
        labels = g.op("Max", g.input("y", "int64", [BATCH, context]), g.constant(0))  # -1: nothing was said yet
        y = projected(g, self.model.joiner, stateless_step(g, predictor, labels))
        g.output("decoder_out", y, "float32", [BATCH, self.joint_dim])
        return g.model("decoder", {"vocab_size": self.model.vocab_size, "context_size": context})

    def _joiner(self, g: Graph) -> onnx.ModelProto:
        size: list[Size] = [BATCH, self.joint_dim]
        encoded, predicted = (g.input(name, "float32", size) for name in ("encoder_out", "decoder_out"))
        found = logits(g, self.model.joiner, encoded, predicted, blank_last=False)
        g.output("logits", found, "float32", [BATCH, self.model.vocab_size])
        return g.model("joiner", {})


CONTRACTS: dict[str, type[Contract]] = {contract.name: contract for contract in (Nemo, EBranchformer)}


def _state(name: str, shape: list[Size], dtype: Literal["float32", "int64"] = "float32") -> StateArray:
    output = f"{name}_next" if name.startswith("cache") else f"next_{name}"
    return StateArray(name, output, dtype, shape)


def _inputs(g: Graph, states: list[StateArray]) -> list[str]:
    return [g.input(state.input, state.dtype, state.shape) for state in states]


def _outputs(g: Graph, states: list[StateArray], values: Sequence[str]) -> None:
    for state, value in zip(states, values, strict=True):
        g.output(state.output, value, state.dtype, state.shape)
