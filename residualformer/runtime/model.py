"""The model of an exported folder as the searches see it, whatever runs it (docs/format.md).

Shapes: N streams or hypotheses, F mel bins, J the size of the joint space, V tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from residualformer.errors import UserError
from residualformer.runtime.settings import FINGERPRINT, SETTINGS_FILE, TOKENS_FILE, ModelSettings, StateArray
from residualformer.runtime.tokens import read_tokens

Array = NDArray[Any]
State = tuple[Array, ...]

CACHE_SIZE = 1024  # outputs of a stateless predictor: 2 MB at the paper's size


class ExportedModel(ABC):
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
        self.window, self.shift, self.stride = settings.window, settings.shift, settings.subsampling  # feature frames
        self.tail_s = 0.0 if self.takes_lengths else settings.tail_padding_ms / 1000  # silence to append to a stream
        self._settings = settings
        self._cache: dict[tuple[Hashable, ...], tuple[Array, State]] = {}
        files = settings.files[precision]
        self._paths = [folder / name for name in (files.encoder, files.decoder, files.joiner)]
        for path in self._paths:
            if not path.is_file():
                raise UserError(f"{path} is missing: export the model again.")

    def encoder_state(self) -> State:
        """Return the state of one stream before its first chunk, without axis N."""
        return zeros(self._settings.states.encoder)

    @abstractmethod
    def encode(self, features: Array, lengths: Array, states: Sequence[State]) -> tuple[Array, list[State]]:
        """Encode one chunk of N streams.

        Args:
            features: (N, window, F) float32; what is beyond a stream's end may hold anything.
            lengths: (N,) int64, real frames in the window; fewer than `window` at the end of a stream only.
            states: of each stream, from `encoder_state` or the last call.

        Returns:
            (N, T', J), of which the first ceil(min(lengths, shift) / stride) are real, and the new states.
        """

    def predictor_state(self) -> State:
        """Return the state of one hypothesis before its first label, the blank."""
        return zeros(self._settings.states.decoder)

    def predict(self, labels: Sequence[int], states: Sequence[State]) -> list[tuple[Array, State]]:
        """Return for each of N hypotheses the predictor's output (J,) after one more label, and the new state.

        The output of a stateless predictor depends on the last labels alone, so it is cached, for all streams.
        """
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

    @abstractmethod
    def join(self, encoded: Array, predicted: Array) -> Array:
        """Return the logits (N, V) of frames (N, J) and outputs of `predict` (N, J)."""

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
