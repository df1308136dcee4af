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

from residualformer.data.audio import audio_blocks, checked, rate_problem, read_wav_header
from residualformer.errors import UserError
from residualformer.optional import optional

Samples = NDArray[np.float32]

BLOCK_S = 0.1
MAX_CHANNELS = 1024  # as in libsndfile
_STDIN = "standard input"
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # format tags of a WAV
_DTYPES = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "V3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_CONTAINERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b"RF64": "RF64"}


class Block(NamedTuple):
    """Samples (S,) of one channel in [-1, 1], and their rate."""

    samples: Samples
    sample_rate_hz: int


def to_mono(samples: NDArray[Any]) -> Samples:
    """Return one channel in [-1, 1] of samples (S,) or (S, channels), floats or integers of 8 to 32 bits.

    The result is a new array. Channels are averaged. Unsigned 8-bit numbers are centered on 128, as in WAV. Raises
    UserError for another shape or type, or values that are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise UserError(f"audio has the shape (S,) or (S, channels); given is {samples.shape}.")
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype in (np.int8, np.int16, np.int32):
        samples = samples / np.float32(-np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f":
        raise UserError(f"audio samples are floats, or integers of 8 to 32 bits; given is {samples.dtype}.")
    mono = samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else np.array(samples, np.float32)
    if not np.isfinite(mono).all():
        raise UserError("audio holds samples that are not finite: record or convert it again.")
    return mono.astype(np.float32, copy=False)


class _Pcm(NamedTuple):
    """The encoding of samples in a stream of bytes; the `dtype` of 24-bit integers is void of 3 bytes."""

    dtype: np.dtype[Any]
    channels: int
    rate_hz: int

    @property
    def frame_bytes(self) -> int:
        return self.dtype.itemsize * self.channels


class Resampler:
    """A resampler that works block by block; its output does not depend on how the audio was cut into blocks."""

    def __init__(self, from_hz: int, to_hz: int):
        self.from_hz = from_hz
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def __call__(self, samples: Samples, last: bool = False) -> Samples:
        """Return the resampled samples that are ready after samples (S,); with `last`, the rest as well."""
        return samples if self._stream is None else self._stream.resample_chunk(samples, last=last)


def file_blocks(path: Path | str, block_s: float = BLOCK_S) -> Iterator[Block]:
    """Yield blocks of an audio file of any format, rate and channel count that libsndfile opens.

    Raises UserError as `data.audio.audio_blocks`.
    """
    for samples, rate_hz in audio_blocks(path, block_s):
        yield Block(to_mono(samples), rate_hz)


def standard_input_blocks(rate_hz: int, block_s: float = BLOCK_S, file: BinaryIO | None = None) -> Iterator[Block]:
    """Yield blocks of standard input as they arrive: WAV by its header, or raw 16-bit little-endian mono at `rate_hz`.

    Raises UserError when there is nothing, for another container in a pipe, and for a WAV that is cut off or has a
    coding other than PCM and float.
    """
    file = sys.stdin.buffer if file is None else file
    head = file.read(4)
    name = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), None)
    if name:
        raise UserError(f"{_STDIN} is {name}: give it as a file, or pipe WAV or raw 16-bit samples.")
    coding, stated = _wav_coding(file) if head == b"RIFF" else (_Pcm(np.dtype("<i2"), 1, rate_hz), 0)
    rest = b"" if head == b"RIFF" else head
    if problem := rate_problem(coding.rate_hz):
        raise UserError(f"{_STDIN} {problem}: give the rate at which it was recorded.")
    for samples, rate_hz in checked(_pcm_blocks(file, rest, coding, block_s, stated), _STDIN, stated):
        yield Block(to_mono(samples), rate_hz)


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


def _pcm_blocks(
    file: BinaryIO, rest: bytes, coding: _Pcm, block_s: float, stated: int
) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield samples (S, channels) and their rate until the input ends, or the `stated` number (0: any) is read."""
    frame = coding.frame_bytes
    size, left = frame * max(1, round(block_s * coding.rate_hz)), stated * frame if stated else sys.maxsize
    while data := file.read(min(size, left)):
        left -= len(data)
        data = rest + data
        whole = len(data) - len(data) % frame
        rest = data[whole:]
        if whole:
            dtype = coding.dtype
            samples = _int24(data[:whole]) if dtype.kind == "V" else np.frombuffer(data[:whole], dtype)
            yield samples.reshape(-1, coding.channels), coding.rate_hz


def _int24(data: bytes) -> NDArray[np.int32]:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return padded.view("<i4")[:, 0]


def _wav_coding(file: BinaryIO) -> tuple[_Pcm, int]:
    """Read a WAV's header after its first 4 bytes; return its encoding and its samples per channel (0: unknown)."""
    content, stated_bytes = read_wav_header(file)
    if 0 < len(content) < 16:
        raise UserError(f"{_STDIN} is a WAV with a damaged header: record or copy it again.")
    if not content or stated_bytes is None:
        raise UserError(f"{_STDIN} is a WAV without samples: record or copy it again.")
    tag, channels, rate_hz, _, _, bits = np.frombuffer(content[:16], "<u2,<u2,<u4,<u4,<u2,<u2")[0].tolist()
    if tag == _EXTENSIBLE and len(content) >= 26:
        tag = int.from_bytes(content[24:26], "little")
    name = _DTYPES.get((tag, bits))
    if name is None or not rate_hz:
        raise UserError(
            f"{_STDIN} is a WAV of coding {tag} with {bits} bits; it must be PCM or float: convert it first."
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"{_STDIN} is a WAV of {channels} channels; allowed are 1 to {MAX_CHANNELS}: convert it first.")
    coding = _Pcm(np.dtype(name), channels, rate_hz)
    return coding, stated_bytes // coding.frame_bytes
