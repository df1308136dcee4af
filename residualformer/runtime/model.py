"""A model as the searches see it, whatever runs it, and the model of an exported folder (docs/format.md).

Shapes: N streams or hypotheses, F mel bins, J the size of the joint space, V tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.errors import UserError
from residualformer.runtime.settings import FINGERPRINT, SETTINGS_FILE, TOKENS_FILE, ModelSettings, StateArray
from residualformer.runtime.tokens import read_tokens
from residualformer.words.calibration import UNCALIBRATED, Calibration

Array = NDArray[Any]
State = tuple[Array, ...]

FRONT_STATE = {"nemo": 1, "ebranchformer": 2}  # which of the encoder's states, by type
CACHE_SIZE = 1024  # outputs of a stateless predictor: 2 MB at the paper's size


class StreamingModel(ABC):
    """A streaming transducer. Only the model itself looks into states, which may be of any type."""

    pieces: list[str]  # the tokens as text, by their ids
    blank: int
    features: FeatureConfig
    decode: DecodeConfig  # the search that it is meant to be used with
    window: int  # feature frames that one step of the encoder reads
    shift: int  # feature frames by which it moves on
    stride: int  # feature frames per encoder frame
    tail_s: float  # silence to append to a stream
    target: Literal["text", "translation"] = "text"  # what the tokens are of
    calibration: Calibration = UNCALIBRATED  # of words' times and confidences
    num_branches: int = 1  # of an AmNet's encoder, or depths among which an arbitrator chooses
    branch_delay: int = 0  # frames from a decision to the one that takes its branch

    @abstractmethod
    def encoder_state(self) -> Any:
        """Return the state of one stream before its first chunk."""

    @abstractmethod
    def encode(self, features: Array, lengths: Array, states: Sequence[Any]) -> tuple[Array, list[Any]]:
        """Encode one chunk of N streams.

        Args:
            features: (N, window, F) float32; what is beyond a stream's end may hold anything.
            lengths: (N,) int64, real frames in the window; fewer than `window` at the end of a stream only.
            states: of each stream, from `encoder_state` or the last call.

        Returns:
            (N, T', J), of which the first ceil(min(lengths, shift) / stride) are real, and the new states.
        """

    def branch(self, state: Any) -> int | None:
        """Return the branch that was last decided for a stream with this state of the encoder; 0 is the slow one.

        It is an AmNet's, or the number of the depth at which an arbitrator had the last chunk encoded. With
        `branch_delay` the next frame takes it. None for other models.
        """
        return None

    @abstractmethod
    def predictor_state(self) -> Any:
        """Return the state of one hypothesis before its first label, the blank."""

    @abstractmethod
    def predict(self, labels: Sequence[int], states: Sequence[Any]) -> list[tuple[Array, Any]]:
        """Return for each of N hypotheses the predictor's output (J,) after one more label, and the new state."""

    @abstractmethod
    def join(self, encoded: Array, predicted: Array) -> Array:
        """Return the logits (N, V) of frames (N, J) and outputs of `predict` (N, J), as a new array."""


class ExportedModel(StreamingModel):
    """A streaming transducer without torch; UserError when files are missing or do not fit the settings."""

    takes_lengths: ClassVar[bool] = True  # else `encode` sees whole windows only, and silence must fill the last one

    def __init__(self, folder: Path, settings: ModelSettings, int8: bool):
        precision = "int8" if int8 else "fp32"
        if precision not in settings.files:
            raise UserError(f"{folder} holds no {precision} files: export it again{' with --int8' if int8 else ''}.")
        self.pieces, self.blank = read_tokens(folder / TOKENS_FILE), settings.blank_id
        if len(self.pieces) != settings.vocab_size:
            raise UserError(f"{folder}: {TOKENS_FILE} and {SETTINGS_FILE} do not fit together: export the model again.")
        self.features, self.decode = settings.features, settings.decode
        if self.decode.lm is not None:
            self.decode = replace(self.decode, lm=str(folder / self.decode.lm))
        self.window, self.shift, self.stride = settings.window, settings.shift, settings.subsampling
        self.tail_s = 0.0 if self.takes_lengths else settings.tail_padding_ms / 1000
        self.target, self.calibration = settings.target, settings.calibration
        self._settings, self.num_branches, self.branch_delay = settings, settings.branches, settings.branch_delay
        self._cache: dict[tuple[Hashable, ...], tuple[Array, State]] = {}
        files = settings.files[precision]
        self._paths = [folder / name for name in (files.encoder, files.decoder, files.joiner)]
        for path in self._paths:
            if not path.is_file():
                raise UserError(f"{path} is missing: export the model again.")

    def encoder_state(self) -> State:
        return zeros(self._settings.states.encoder)

    def branch(self, state: State) -> int | None:
        if self.num_branches == 1:
            return None
        front = state[FRONT_STATE[self._settings.type]].reshape(-1)
        decision = front[1 - self.num_branches :]  # without the slow branch's entry
        return int(decision.argmax()) + 1 if decision.any() else 0

    def predictor_state(self) -> State:
        return zeros(self._settings.states.decoder)

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        # The output of a stateless predictor depends on the last labels alone, so it is cached, for all streams.
        if self._settings.predictor.kind != "stateless":
            return self._predict(labels, states)
        keys: list[tuple[Hashable, ...]] = [
            (label, *(part.tobytes() for part in state)) for label, state in zip(labels, states, strict=True)
        ]
        cache = self._cache
        if new := {key: n for n, key in enumerate(keys) if key not in cache}:
            if len(cache) + len(new) > CACHE_SIZE:
                cache = self._cache = {key: cache[key] for key in keys if key in cache}
            found = self._predict([labels[n] for n in new.values()], [states[n] for n in new.values()])
            cache.update(zip(new, found, strict=True))
        return [cache[key] for key in keys]

    @abstractmethod
    def _predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        """Run the network for `predict`; the state of a stateless predictor is the label history of its next output."""

    def _check_metadata(self, *found: Mapping[str, str]) -> None:
        """Raise UserError when the metadata of encoder, decoder or joiner are of another model than the settings."""
        for path, metadata in zip(self._paths, found, strict=True):
            if metadata.get(FINGERPRINT) != self._settings.fingerprint:
                raise UserError(f"{path} and {SETTINGS_FILE} are of different models: copy the whole folder again.")


def zeros(states: Sequence[StateArray]) -> State:
    """Return the states of one stream or hypothesis at the start, without axis N."""
    return tuple(np.zeros([size for size in state.shape if size != "N"], state.dtype) for state in states)


def stack(states: Sequence[State], axis: int = 0) -> list[Array]:
    """Return the states of N streams or hypotheses as arrays with an axis N; those of a single one as views."""
    if len(states) == 1:
        return [np.expand_dims(part, axis) for part in states[0]]
    return [np.stack(part, axis=axis) for part in zip(*states, strict=True)]
