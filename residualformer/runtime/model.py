"""The three networks of an exported folder on onnxruntime, as functions of numpy arrays.

N streams or hypotheses, F mel bins, J the joint space, V tokens. `docs/export.md` describes the files; the inputs and
outputs are taken by their order, as sherpa-onnx takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from residualformer.errors import UserError
from residualformer.files import read_json
from residualformer.runtime.tokens import read_tokens
from residualformer.schema import DecodeConfig, FeatureConfig

Array = NDArray[Any]
State = tuple[Array, ...]

CARD, TOKENS = "model.json", "tokens.txt"
FORMAT = 1


class ExportedModel:
    """A streaming transducer without torch: what both types of folders have in common.

    Attributes:
        pieces: the output units, in the order of ids.
        blank: id of the blank.
        features: what the filterbanks are computed with.
        window: feature frames that one `encode` needs.
        shift: feature frames by which one `encode` moves on.
        stride: feature frames per encoder frame.
        tail_s: silence to be put behind a stream so that every frame is encoded; 0 where `encode` takes lengths.
        decode: the search that the model is meant to be used with.
    """

    def __init__(self, folder: Path, card: dict[str, Any], num_threads: int, int8: bool):
        files = card["files"].get("int8" if int8 else "fp32")
        if files is None:
            raise UserError(f"{folder} holds no int8 files: export it again with --int8.")
        self.pieces, self.blank = read_tokens(folder / TOKENS), card["blank_id"]
        if len(self.pieces) != card["vocab_size"]:
            raise UserError(f"{folder}: {TOKENS} and {CARD} do not fit together: export the model again.")
        self.features, self.decode = FeatureConfig(**card["features"]), DecodeConfig(**card["decode"])
        self.window, self.shift, self.stride = card["window"], card["shift"], card["subsampling"]
        self.tail_s = card["tail_padding_ms"] / 1000
        self._card = card
        self._encoder, self._decoder, self._joiner = (
            _Session(folder / files[part], num_threads) for part in ("encoder", "decoder", "joiner")
        )

    def encoder_state(self) -> State:
        """State of one stream before its first chunk, without axis N."""
        return self._zeros("encoder")

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        """One chunk of N streams.

        Args:
            features: (N, window, F) float32; what is beyond a stream's end may hold anything.
            lengths: (N,) int64, real frames in the window; fewer than `window` at the end of a stream only.
            states: of each stream, from `encoder_state` or the last call.

        Returns:
            (N, T', J), of which the first ceil(min(lengths, shift) / stride) are real, and the new states.
        """
        raise NotImplementedError

    def predictor_state(self) -> State:
        """State of one hypothesis before its first label, the blank."""
        raise NotImplementedError

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        """Of N hypotheses the predictor's output (J,) after one more label, and the new state."""
        raise NotImplementedError

    def join(self, encoded: Array, predicted: Array) -> Array:
        """Frames (N, J) and outputs of `predict` (N, J) -> logits (N, V)."""
        raise NotImplementedError

    def _zeros(self, part: str) -> State:
        states = self._card["states"][part]
        return tuple(np.zeros([n for n in state["shape"] if n != "N"], state["dtype"]) for state in states)


class NemoModel(ExportedModel):
    """A folder of the type `nemo`: lengths are taken, the predictor has a state of two arrays (layers, hidden)."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.tail_s = 0.0

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, _, *new = self._encoder(features.transpose(0, 2, 1), lengths, *_stack(states))
        return frames.transpose(0, 2, 1), list(zip(*new, strict=True))

    def predictor_state(self) -> State:
        return self._zeros("decoder")

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        ids, ones = np.array(labels, np.int32)[:, None], np.ones(len(labels), np.int32)
        out, _, h, c = self._decoder(ids, ones, *_stack(states, axis=1))
        # Copies, because a view would keep the whole batch alive as long as one hypothesis lives.
        return [(out[n, :, 0].copy(), (h[:, n].copy(), c[:, n].copy())) for n in range(len(ids))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded[:, :, None], predicted[:, :, None])[0]


class EbranchformerModel(ExportedModel):
    """A folder of the type `ebranchformer`: a stateless predictor, no lengths."""

    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        frames, *new = self._encoder(features, *_stack(states))
        return frames, list(zip(*new, strict=True))

    def predictor_state(self) -> State:
        return (np.full(self._card["predictor"]["context_size"], -1, np.int64),)

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        histories = np.concatenate([_stack(states)[0][:, 1:], np.array(labels, np.int64)[:, None]], axis=1)
        out = self._decoder(histories)[0]
        return [(out[n].copy(), (histories[n].copy(),)) for n in range(len(histories))]

    def join(self, encoded: Array, predicted: Array) -> Array:
        return self._joiner(encoded, predicted)[0]


TYPES = {"nemo": NemoModel, "ebranchformer": EbranchformerModel}


def load_exported(folder: Path | str, num_threads: int = 1, int8: bool = False) -> ExportedModel:
    """The model in `folder`, or that of its int8 files; UserError when there is none or it does not load."""
    folder = Path(folder)
    card = read_json(folder / CARD, "give a folder that steps/export.py wrote")
    if card.get("format") != FORMAT or card.get("type") not in TYPES:
        raise UserError(
            f"{folder}/{CARD} is of format {card.get('format')} and type '{card.get('type')}'; this version reads "
            f"format {FORMAT} of the types {', '.join(TYPES)}: export the model again."
        )
    try:
        return TYPES[card["type"]](folder, card, num_threads, int8)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/{CARD} is damaged ({error!r}): export the model again.") from error


class _Session:
    """One network; its memory is that of the weights and of the largest activations."""

    def __init__(self, path: Path, num_threads: int):
        if not path.is_file():
            raise UserError(f"{path} is missing: export the model again.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # batches of many sizes would add up in both
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception for each kind of damage
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{path} cannot be loaded ({reason}): export the model again.") from error
        self._run = session.run
        self._inputs = [node.name for node in session.get_inputs()]

    def __call__(self, *arrays: Array) -> list[Array]:
        return self._run(None, dict(zip(self._inputs, arrays, strict=True)))


def _stack(states: Sequence[State], axis: int = 0) -> list[Array]:
    """The states of N streams or hypotheses as arrays with an axis N."""
    return [np.stack(part, axis=axis) for part in zip(*states, strict=True)]
