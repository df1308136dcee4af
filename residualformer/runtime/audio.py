"""Audio from files, standard input and a microphone, in blocks, so that memory does not grow with the length."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from residualformer.data.audio import audio_blocks, checked, one_channel, rate_problem, value_problem
from residualformer.data.mixing import layout_of
from residualformer.data.wav import Pcm, pcm_blocks, wav_coding
from residualformer.errors import UserError
from residualformer.optional import optional

Samples = NDArray[np.float32]

BLOCK_S = 0.1
MOST_CHANNELS = 64  # of an array whose orientation is to be found
_STDIN = "standard input"
_CONTAINERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b"RF64": "RF64"}


class Block(NamedTuple):
    """Samples (S,) of one channel in [-1, 1], and their rate."""

    samples: Samples
    sample_rate_hz: int


def to_mono(samples: NDArray[Any], channel: int | None = None, name: str = "the audio", layout: int = 0) -> Samples:
    """Return one channel (S,) in [-1, 1] of samples (S,) or (S, C), as a new array.

    They are floats, signed integers of 8, 16 or 32 bits, or unsigned ones of 8, which are centered on 128 as in WAV.

    Args:
        channel: the one to take, from 0; None: the average of all.
        name: of the audio, in messages.

    Raises:
        UserError: the shape or the type is another, there is no such channel, or values are not finite or on another
            scale.
    """
    if samples.ndim not in (1, 2):
        raise UserError(f"audio has the shape (S,), (S, channels) or (channels, S); given is {samples.shape}.")
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype in (np.int8, np.int16, np.int32):
        samples = samples / np.float32(-np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f":
        raise UserError(
            f"audio samples are floats, signed integers of 8, 16 or 32 bits, or unsigned ones of 8; given is "
            f"{samples.dtype}: convert them."
        )
    if problem := value_problem(samples):
        raise UserError(f"{name} {problem}.")
    columns = samples.astype(np.float32, copy=False)
    return np.array(one_channel(columns[:, None] if columns.ndim == 1 else columns, channel, name, layout))


def time_first(samples: NDArray[Any], channels: int | None = None) -> NDArray[Any]:
    """Return samples (S,), (S, C) or (C, S) as (S, C).

    Args:
        channels: C, if it is known from earlier samples; else the shorter axis is that of the channels.

    Raises:
        UserError: either axis may be that of the channels, or their number has changed.
    """
    if samples.ndim not in (1, 2):
        raise UserError(f"audio has the shape (S,), (S, channels) or (channels, S); given is {samples.shape}.")
    if samples.size == 0:
        return np.zeros((0, channels or 1), samples.dtype)
    rows, columns = samples.shape if samples.ndim == 2 else (len(samples), 1)
    if samples.ndim == 1:
        samples = samples[:, None]
    if channels is not None:
        if channels not in (rows, columns):
            raise UserError(
                f"audio of shape {samples.shape} comes after audio of {channels} channels: keep to one number."
            )
        return samples if columns == channels else samples.T
    if min(rows, columns) > MOST_CHANNELS or rows == columns > 1:
        raise UserError(
            f"audio of shape {samples.shape} is neither clearly (S, channels) nor (channels, S) with at most "
            f"{MOST_CHANNELS} channels: give samples (S,) of one channel."
        )
    return samples if columns <= rows else samples.T


class Resampler:
    """A resampler that works block by block; its output does not depend on how the audio was cut into blocks."""

    def __init__(self, from_hz: int, to_hz: int):
        self.from_hz = from_hz
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def __call__(self, samples: Samples, last: bool = False) -> Samples:
        """Return the resampled samples that are ready after samples (S,); with `last`, the rest as well."""
        return samples if self._stream is None else self._stream.resample_chunk(samples, last=last)


def file_blocks(path: Path | str, block_s: float = BLOCK_S, channel: int | None = None) -> Iterator[Block]:
    """Yield blocks of one channel of an audio file, or of the mix of all (None).

    Raises:
        UserError: see `data.audio.audio_blocks`, or there is no such channel.
    """
    layout: int | None = None
    for samples, rate_hz in audio_blocks(path, block_s):
        if layout is None:
            layout = layout_of(Path(path)) if channel is None and samples.shape[1] > 2 else 0
        yield Block(to_mono(samples, channel, str(path), layout), rate_hz)


def standard_input_blocks(
    rate_hz: int, block_s: float = BLOCK_S, file: BinaryIO | None = None, channel: int | None = None
) -> Iterator[Block]:
    """Yield blocks of standard input as they arrive: WAV by its header, or raw 16-bit little-endian mono at `rate_hz`.

    Raises:
        UserError: there is nothing, it is another container, or a WAV that is cut off or neither PCM nor float.
    """
    file = sys.stdin.buffer if file is None else file
    head = file.read(4)
    name = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), None)
    if name:
        raise UserError(f"{_STDIN} is {name}: give it as a file, or pipe WAV or raw 16-bit samples.")
    coding, stated = wav_coding(file, _STDIN) if head == b"RIFF" else (Pcm(np.dtype("<i2"), 1, rate_hz), 0)
    rest = b"" if head == b"RIFF" else head
    if problem := rate_problem(coding.rate_hz):
        raise UserError(f"{_STDIN} {problem}: give the rate at which it was recorded.")
    for samples, rate_hz in checked(pcm_blocks(file, rest, coding, block_s, stated), _STDIN, stated):
        yield Block(to_mono(samples, channel, _STDIN, coding.layout), rate_hz)


def microphone_blocks(rate_hz: int, block_s: float = BLOCK_S) -> Iterator[Block]:
    """Yield blocks of the default microphone without end; UserError without one, or without `sounddevice`."""
    sounddevice = optional("sounddevice")
    try:
        with sounddevice.InputStream(rate_hz, round(block_s * rate_hz), channels=1, dtype="float32") as stream:
            while True:
                samples, _ = stream.read(round(block_s * rate_hz))
                yield Block(to_mono(samples), rate_hz)
    except sounddevice.PortAudioError as error:
        raise UserError(f"the microphone cannot be opened ({error}): connect one, or give audio as a file.") from error


def until_interrupt(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield live `blocks` until Ctrl-C, so that what was said before it is still transcribed.

    A second Ctrl-C interrupts. Use it in the main thread, where signals are handled.
    """
    ended, waiting = False, False

    def end(*_: Any) -> None:
        nonlocal ended
        if ended or waiting:
            raise KeyboardInterrupt
        ended = True

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the caller handles Ctrl-C itself
    if usual:
        signal.signal(signal.SIGINT, end)
    blocks = iter(blocks)
    try:
        while not ended:
            try:
                waiting = True
                block = next(blocks)
                waiting = False
            except (StopIteration, KeyboardInterrupt):
                return
            yield block
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
