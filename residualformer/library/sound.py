"""Recordings to transcribe: files of any format, and arrays of any orientation and type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from residualformer.data.audio import audio_length_s, rate_problem, read_audio, resample
from residualformer.errors import UserError
from residualformer.runtime.audio import Block, Samples, file_blocks, time_first, to_mono

Audio = ArrayLike | str | Path


@dataclass(frozen=True)
class Sound:
    """A recording.

    Args:
        audio: the path of a file, or samples (S,), (C, S) or (S, C).
        rate: sampling rate of an array, in Hz; None for a file, whose header states it.
        channel: the one to transcribe, from 0; None: the average of all.

    Raises:
        UserError: an array has no rate or an impossible one, a file is given one, or `channel` is negative.
    """

    audio: Audio
    rate: int | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel < 0:
            raise UserError(f"channel is {self.channel}; channels count from 0.")
        if self.path is not None:
            if self.rate is not None:
                raise UserError(
                    f"a rate, {self.rate} Hz, is given for {self.path}, whose header has one: leave it out."
                )
        elif self.rate is None:
            raise UserError("samples need their sampling rate: give it in Hz, for example 16000.")
        elif problem := rate_problem(self.rate):
            raise UserError(f"audio {problem}: give the rate at which it was recorded.")

    @property
    def path(self) -> Path | None:
        """The file; None of an array."""
        return Path(self.audio) if isinstance(self.audio, str | Path) else None

    @property
    def name(self) -> str:
        """The name of the recording in messages."""
        return "the audio" if self.path is None else str(self.path)

    def length_s(self) -> float | None:
        """Return the length in seconds by a file's header, or of an array; None if it is not known."""
        if self.path is not None:
            return audio_length_s(self.path)
        return len(self._array()) / self._rate

    def blocks(self) -> Iterator[Block]:
        """Yield the samples block by block; UserError where they are no audio."""
        if self.path is not None:
            return file_blocks(self.path, channel=self.channel)
        return iter([Block(self._array(), self._rate)])

    def samples(self, sample_rate_hz: int) -> Samples:
        """Return all samples (S,) at a rate; UserError where they are no audio."""
        if self.path is not None:
            return read_audio(self.path, sample_rate_hz, self.channel)
        return resample(self._array(), self._rate, sample_rate_hz)

    @property
    def _rate(self) -> int:
        assert self.rate is not None  # of an array
        return self.rate

    def _array(self) -> Samples:
        return to_mono(time_first(np.asarray(self.audio)), self.channel)
