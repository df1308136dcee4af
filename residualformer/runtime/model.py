"""The model of an exported folder as the searches see it, whatever runs it (`docs/format.md`).

N streams or hypotheses, F mel bins, J the joint space, V tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.errors import UserError
from residualformer.runtime.settings import FINGERPRINT, SETTINGS_FILE, TOKENS_FILE
from residualformer.runtime.tokens import read_tokens

Array = NDArray[Any]
State = tuple[Array, ...]

REMEMBERED = 1024  # answers of a stateless predictor: 2 MB at the paper's size


class ExportedModel(ABC):
    """A streaming transducer without torch.

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

    def __init__(self, folder: Path, card: dict[str, Any], int8: bool):
        if ("int8" if int8 else "fp32") not in card["files"]:
            raise UserError(f"{folder} holds no int8 files: export it again with --int8.")
        self.pieces, self.blank = read_tokens(folder / TOKENS_FILE), card["blank_id"]
        if len(self.pieces) != card["vocab_size"]:
            raise UserError(f"{folder}: {TOKENS_FILE} and {SETTINGS_FILE} do not fit together: export the model again.")
        self.features, self.decode = FeatureConfig(**card["features"]), DecodeConfig(**card["decode"])
        self.window, self.shift, self.stride = card["window"], card["shift"], card["subsampling"]
        self.tail_s = card["tail_padding_ms"] / 1000
        self._card, self._stateless = card, card["predictor"]["kind"] == "stateless"
        self._answers: dict[tuple, tuple[Array, State]] = {}
        files = card["files"]["int8" if int8 else "fp32"]
        self._paths = [folder / files[part] for part in ("encoder", "decoder", "joiner")]
        for path in self._paths:
            if not path.is_file():
                raise UserError(f"{path} is missing: export the model again.")

    def encoder_state(self) -> State:
        """State of one stream before its first chunk, without axis N."""
        return self._zeros("encoder")

    @abstractmethod
    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        """One chunk of N streams.

        Args:
            features: (N, window, F) float32; what is beyond a stream's end may hold anything.
            lengths: (N,) int64, real frames in the window; fewer than `window` at the end of a stream only.
            states: of each stream, from `encoder_state` or the last call.

        Returns:
            (N, T', J), of which the first ceil(min(lengths, shift) / stride) are real, and the new states.
        """

    @abstractmethod
    def predictor_state(self) -> State:
        """State of one hypothesis before its first label, the blank."""

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        """Of N hypotheses the predictor's output (J,) after one more label, and the new state.

        A stateless predictor answers by the last labels alone, so its answers are kept, for all streams.
        """
        if not self._stateless:
            return self._predict(labels, states)
        keys = [(label, *(part.tobytes() for part in state)) for label, state in zip(labels, states, strict=True)]
        answers = self._answers
        if new := {key: n for n, key in enumerate(keys) if key not in answers}:
            if len(answers) + len(new) > REMEMBERED:
                answers = self._answers = {key: answers[key] for key in keys if key in answers}
            found = self._predict([labels[n] for n in new.values()], [states[n] for n in new.values()])
            answers.update(zip(new, found, strict=True))
        return [answers[key] for key in keys]

    @abstractmethod
    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        """As `predict`; a stateless predictor's state are the labels that its next answer takes in."""

    @abstractmethod
    def join(self, encoded: Array, predicted: Array) -> Array:
        """Frames (N, J) and outputs of `predict` (N, J) -> logits (N, V)."""

    def _check_metadata(self, *found: Mapping[str, str]) -> None:
        """UserError where the metadata of encoder, decoder or joiner tell of another model than the settings."""
        for path, metadata in zip(self._paths, found, strict=True):
            if metadata.get(FINGERPRINT) != self._card.get(FINGERPRINT):
                raise UserError(f"{path} and {SETTINGS_FILE} are of different models: copy the whole folder again.")

    def _zeros(self, part: str) -> State:
        states = self._card["states"][part]
        return tuple(np.zeros([n for n in state["shape"] if n != "N"], state["dtype"]) for state in states)


def stack(states: Sequence[State], axis: int = 0) -> list[Array]:
    """The states of N streams or hypotheses as arrays with an axis N; a view of a single one."""
    if len(states) == 1:
        return [np.expand_dims(part, axis) for part in states[0]]
    return [np.stack(part, axis=axis) for part in zip(*states, strict=True)]
