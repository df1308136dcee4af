"""WAV headers and samples, also through a pipe, where nothing can be sought."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from residualformer.errors import UserError

MAX_CHANNELS = 1024  # as in libsndfile
MAX_CHUNK = 1 << 12  # bytes of the description of a WAV's coding, which has 16 to 40
MP3 = 0x55
_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # format tags
_FIXED = (_PCM, _FLOAT, _A_LAW, _MU_LAW)  # codings in which each sample takes the same number of bytes
_DTYPES = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "V3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}


class Pcm(NamedTuple):
    """The encoding of samples in a stream of bytes; the `dtype` of 24-bit integers is void of 3 bytes."""

    dtype: np.dtype[Any]
    channels: int
    rate_hz: int
    layout: int = 0  # the mask of speakers that the channels are of, in the order of its bits; 0: not known

    @property
    def frame_bytes(self) -> int:
        return self.dtype.itemsize * self.channels


class WavHeader(NamedTuple):
    """A WAV up to its samples: the content of its `fmt ` chunk, and the bytes of samples that it states."""

    coding: bytes  # b"" without that chunk
    stated_bytes: int | None  # 0 if the writer did not know it, None without samples

    @property
    def tag(self) -> int:
        """The number of the coding."""
        tag = int.from_bytes(self.coding[:2], "little")
        return int.from_bytes(self.coding[24:26], "little") if tag == _EXTENSIBLE else tag

    @property
    def layout(self) -> int:
        """The mask of speakers; 0 where it is not told."""
        is_told = int.from_bytes(self.coding[:2], "little") == _EXTENSIBLE
        return int.from_bytes(self.coding[20:24], "little") if is_told else 0

    @property
    def frame_bytes(self) -> int:
        """The bytes of a sample of all channels; 0 where they differ from sample to sample."""
        return int.from_bytes(self.coding[12:14], "little") if self.tag in _FIXED else 0


def stated_wav_bytes(size: int) -> int:
    """Return the bytes of samples that the size of a WAV's data chunk states; 0 where the writer did not know it.

    When they write into a pipe, ffmpeg states 4 GB, arecord 2 GB, sox and espeak-ng 0x7FFFF000 rounded down to whole
    frames, and others 0.
    """
    return 0 if size >= 0xFFFFFFFF - 8 or 0x7FFFF000 - 64 <= size <= 0x80000000 else size


def stated_wav_frames(path: Path) -> int:
    """Return the samples per channel that the header of a RIFF file states; 0 where it does not.

    libsndfile, and thus soundfile and Lhotse, silently shorten a truncated WAV to what is there.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        header = read_wav_header(file)
    return header.stated_bytes // header.frame_bytes if header.stated_bytes and header.frame_bytes else 0


def read_wav_header(file: BinaryIO) -> WavHeader:
    """Read a WAV up to its samples, after its first 4 bytes."""
    file.read(8)
    coding = b""
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return WavHeader(coding, stated_wav_bytes(size))
        if header[:4] == b"fmt " and size <= MAX_CHUNK:
            coding = file.read(size + size % 2)
            continue
        left = size + size % 2
        while left and (passed := len(file.read(min(left, 1 << 16)))):
            left -= passed
    return WavHeader(coding, None)


def wav_coding(file: BinaryIO, name: str) -> tuple[Pcm, int]:
    """Read a WAV's header after its first 4 bytes; return its encoding and its samples per channel (0: unknown).

    Raises:
        UserError: the WAV `name` is damaged, or of a coding other than PCM and float.
    """
    header = read_wav_header(file)
    content, stated_bytes = header
    if 0 < len(content) < 16:
        raise UserError(f"{name} is a WAV with a damaged header: record or copy it again.")
    if not content or stated_bytes is None:
        raise UserError(f"{name} is a WAV without samples: record or copy it again.")
    _, channels, rate_hz, _, _, bits = np.frombuffer(content[:16], "<u2,<u2,<u4,<u4,<u2,<u2")[0].tolist()
    dtype = _DTYPES.get((header.tag, bits))
    if dtype is None or not rate_hz:
        raise UserError(
            f"{name} is a WAV of coding {header.tag} with {bits} bits; it must be PCM or float: convert it first."
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"{name} is a WAV of {channels} channels; allowed are 1 to {MAX_CHANNELS}: convert it first.")
    coding = Pcm(np.dtype(dtype), channels, rate_hz, header.layout)
    return coding, stated_bytes // coding.frame_bytes


def pcm_blocks(
    file: BinaryIO, rest: bytes, coding: Pcm, block_s: float, stated: int
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
