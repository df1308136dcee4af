"""The two kinds of sherpa-onnx's online transducers that our models fit: inputs, outputs and metadata of three files.

sherpa-onnx goes by the order of inputs and outputs; the names are ours. Features, states, limits: docs/format.md.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import onnx

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import EncoderGraph, Step, whole
from residualformer.export.predictor_graphs import logits, lstm_step, projected, stateless_step
from residualformer.nn.transducer import Transducer

BATCH = "N"


class State(NamedTuple):
    """What one step gives as `output` and the next one takes as `input`; at the start it is zero."""

    input: str
    output: str
    dtype: str
    shape: list[int | str]  # BATCH marks the batch axis


class Models(NamedTuple):
    """The three files of a folder."""

    encoder: onnx.ModelProto
    decoder: onnx.ModelProto
    joiner: onnx.ModelProto


class Contract(Protocol):
    """A kind of model of sherpa-onnx.

    Attributes:
        name: as in `model.json`.
        preset: the features it computes.
        blank_last: whether the blank has the last id instead of 0.
        predictors: kinds of predictors that fit.
        symbols_per_frame: how many labels its greedy search lets one frame write.
        encoder_states, decoder_states: in the order of the inputs.
    """

    name: str
    preset: str
    blank_last: bool
    predictors: tuple[str, ...]
    symbols_per_frame: int
    encoder_states: list[State]
    decoder_states: list[State]

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None: ...

    def models(self, int8: bool) -> Models:
        """The three models, in fp32 or with weights of 8 bits."""


class Nemo:
    """NeMo's streaming transducers: a predictor with a state, several labels per frame, the blank last."""

    name, preset, blank_last, predictors, symbols_per_frame = "nemo", "sherpa", True, ("lstm", "stateless"), 10

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None:
        self.model, self.encoder = model, encoder
        self.joint = model.joiner.project_encoder.out_features
        shape, config = encoder.state, model.predictor.config
        self.encoder_states = [
            _state("cache_last_channel", "float32", [BATCH, shape.parts, shape.rows, shape.size]),
            _state("cache_last_time", "float32", [BATCH, 1, 1, shape.front]),
            _state("cache_last_channel_len", "int64", [BATCH]),
        ]
        size = config.num_layers, BATCH, config.hidden_dim
        if config.kind == "stateless":  # carries the labels before the newest one, as numbers, 0 being the start
            size = 1, BATCH, max(config.context_size - 1, 1)
        self.decoder_states = [_state(f"state_{index}", "float32", list(size)) for index in range(2)]

    def models(self, int8: bool) -> Models:
        return Models(self._encoder(Graph(int8)), self._decoder(Graph(int8)), self._joiner(Graph(int8)))

    def _encoder(self, g: Graph) -> onnx.ModelProto:
        encoder, shape = self.model.encoder, self.encoder.state
        x = g.input("audio_signal", "float32", [BATCH, encoder.mean.numel(), encoder.window])
        length = g.input("length", "int64", [BATCH])
        channel, front, seen = _inputs(g, self.encoder_states)
        state = Step("", g.split(channel, 1, [1] * shape.parts), g.reshape(front, 0, shape.front), seen)
        found = self.encoder.build(g, g.Transpose(x, perm=[0, 2, 1]), length, state)
        real = whole(g, g.Min(length, g.constant([encoder.shift])), encoder.stride)
        size = [BATCH, self.joint, self.encoder.frames_per_step]
        g.output("outputs", g.Transpose(found.frames, perm=[0, 2, 1]), "float32", size)
        g.output("encoded_lengths", real, "int64", [BATCH])
        values = g.concat(found.parts, 1), g.reshape(found.front, 0, 1, 1, shape.front), found.seen
        _outputs(g, self.encoder_states, values)
        layers, _, hidden = self.decoder_states[0].shape
        dims = {
            f"cache_last_{kind}_dim{axis}": size
            for kind, each in zip(("channel", "time"), self.encoder_states, strict=False)
            for axis, size in enumerate(each.shape[1:], start=1)
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
        label = g.Add(g.Cast(target, to=7), g.constant(1))
        label = g.Mod(label, g.constant(self.model.vocab_size))  # (N, 1), in the numbering of training
        if predictor.config.kind == "lstm":
            y, *states = lstm_step(g, predictor, label, *states)
        elif predictor.config.context_size == 1:
            y = stateless_step(g, predictor, label)
        else:
            history = g.concat([g.Cast(g.Squeeze(states[0], g.constant([0])), to=7), label], 1)
            y = stateless_step(g, predictor, history)
            kept = g.slice(history, 1, 1, predictor.config.context_size)
            states[0] = g.Unsqueeze(g.Cast(kept, to=1), g.constant([0]))
        y = g.Unsqueeze(projected(g, self.model.joiner, y), g.constant([2]))
        g.output("outputs", y, "float32", [BATCH, self.joint, 1])
        g.output("prednet_lengths", length, "int32", [BATCH])
        _outputs(g, self.decoder_states, states)
        return g.model("decoder", {})

    def _joiner(self, g: Graph) -> onnx.ModelProto:
        names = ("encoder_outputs", "decoder_outputs")
        sides = [g.Squeeze(g.input(name, "float32", [BATCH, self.joint, 1]), g.constant([2])) for name in names]
        found = logits(g, self.model.joiner, *sides, blank_last=True)
        g.output("logits", found, "float32", [BATCH, self.model.vocab_size])
        return g.model("joiner", {})


class EBranchformer:
    """icefall's: a stateless predictor, one label per frame, the blank first.

    Our state goes into one layer of an E-Branchformer, whose metadata say how large each of its arrays is.
    """

    name, preset, blank_last, predictors, symbols_per_frame = "ebranchformer", "kaldi", False, ("stateless",), 1
    decoder_states: list[State] = []

    def __init__(self, model: Transducer, encoder: EncoderGraph) -> None:
        self.model, self.encoder = model, encoder
        self.joint = model.joiner.project_encoder.out_features
        shape = encoder.state
        half = [BATCH, shape.parts // 2, shape.rows, shape.size]
        self.encoder_states = [
            _state("key", "float32", half),
            _state("value", "float32", half),
            _state("front", "float32", [BATCH, shape.front, 1]),
            _state("unused", "float32", [BATCH, 2, 1]),
            _state("processed", "int64", [BATCH]),
        ]

    def models(self, int8: bool) -> Models:
        return Models(self._encoder(Graph(int8)), self._decoder(Graph(int8)), self._joiner(Graph(int8)))

    def _encoder(self, g: Graph) -> onnx.ModelProto:
        encoder, shape, half = self.model.encoder, self.encoder.state, self.encoder.state.parts // 2
        x = g.input("x", "float32", [BATCH, encoder.window, encoder.mean.numel()])
        key, value, front, unused, seen = _inputs(g, self.encoder_states)
        parts = [part for each in (key, value) for part in g.split(each, 1, [1] * half)]
        found = self.encoder.build(g, x, None, Step("", parts, g.reshape(front, 0, shape.front), seen))
        g.output("encoder_out", found.frames, "float32", [BATCH, self.encoder.frames_per_step, self.joint])
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
        predictor, context = self.model.predictor, self.model.predictor.config.context_size
        labels = g.Max(g.input("y", "int64", [BATCH, context]), g.constant(0))  # -1: nothing was said yet
        y = projected(g, self.model.joiner, stateless_step(g, predictor, labels))
        g.output("decoder_out", y, "float32", [BATCH, self.joint])
        return g.model("decoder", {"vocab_size": self.model.vocab_size, "context_size": context})

    def _joiner(self, g: Graph) -> onnx.ModelProto:
        sides = [g.input(name, "float32", [BATCH, self.joint]) for name in ("encoder_out", "decoder_out")]
        found = logits(g, self.model.joiner, *sides, blank_last=False)
        g.output("logits", found, "float32", [BATCH, self.model.vocab_size])
        return g.model("joiner", {})


CONTRACTS: dict[str, type[Contract]] = {contract.name: contract for contract in (Nemo, EBranchformer)}


def _state(name: str, dtype: str, shape: list[int | str]) -> State:
    return State(name, f"{name}_next" if name.startswith("cache") else f"next_{name}", dtype, shape)


def _inputs(g: Graph, states: list[State]) -> list[str]:
    return [g.input(state.input, state.dtype, state.shape) for state in states]


def _outputs(g: Graph, states: list[State], values) -> None:
    for state, value in zip(states, values, strict=True):
        g.output(state.output, value, state.dtype, state.shape)
