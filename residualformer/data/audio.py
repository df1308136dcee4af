"""Audio files, of any format, rate and number of channels that libsndfile opens. Needs neither torch nor Lhotse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from residualformer.errors import UserError

MP3_ESTIMATE = 0.01  # relative error of the length that libsndfile estimates before it decodes an MP3
BLOCK_VALUES = 1 << 22  # of all channels together, where no other length of a block is asked for
MAX_CHUNK = 1 << 12  # bytes of the description of a WAV's coding, which has 16 to 40
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 384_000  # a damaged header may state any rate, and resampling take all memory


def read_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Read a file as samples (S,) float32 in [-1, 1]: channels are averaged, and other rates than the given resampled.

    Raises:
        UserError: see `audio_blocks`.
    """
    blocks = list(audio_blocks(path))
    mono, rate = np.concatenate([samples.mean(axis=1) for samples, _ in blocks]), blocks[0][1]
    return resample(mono, rate, sample_rate_hz)


def resample(mono: np.ndarray, rate: int, sample_rate_hz: int) -> np.ndarray:
    """Resample one channel, samples (S,) at `rate` Hz, to `sample_rate_hz` by soxr; return float32."""
    return mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz).astype(np.float32)


def audio_blocks(path: Path | str, block_s: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Read a file block by block.

    Args:
        block_s: maximum length of a block in seconds; None for blocks of a size that is quick to read.

    Yields:
        Samples (S, channels) float32 in [-1, 1], and their rate in Hz.

    Raises:
        UserError: the file is missing, unreadable, shorter than its header states, without samples, of an impossible
            rate, or holds values that are not finite. Errors beyond the header are raised when they are reached.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of an audio file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): record or copy it again.")
    try:
        with soundfile.SoundFile(path) as file:
            if problem := rate_problem(file.samplerate):
                raise UserError(f"{path} {problem}: convert it to WAV or FLAC.")
            stated = max(file.frames, stated_wav_frames(path) if file.format == "WAV" else 0)
            if file.frames < stated:  # libsndfile silently shortens a WAV that is cut off
                raise UserError(_truncated(path, file.frames, stated))
            stated = round(stated * (1 - MP3_ESTIMATE if file.format == "MP3" else 1))
            yield from checked(_blocks(file, block_s), str(path), stated)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio ({error.error_string}): convert it to WAV or FLAC.") from error


def checked(blocks: Iterable[tuple[np.ndarray, int]], name: str, stated: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the blocks of the audio `name`, samples (S, ...) and their rate, while checking them.

    Raises:
        UserError: some samples are not finite, or there are none, or fewer than the header has `stated` (0: unknown).
    """
    count = 0
    for samples, rate in blocks:
        if not np.isfinite(samples).all():
            raise UserError(f"{name} holds samples that are not finite: record or convert it again.")
        count += len(samples)
        yield samples, rate
    if count < stated:
        raise UserError(_truncated(name, count, stated))
    if count == 0:
        raise UserError(f"{name} has no samples: record or copy it again.")


def rate_problem(rate_hz: int) -> str:
    """Return why a sampling rate is impossible, or "" if it is not."""
    if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        return ""
    return f"states a sampling rate of {rate_hz} Hz; allowed are {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"


def _blocks(file: soundfile.SoundFile, block_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    # Never all at once: the length in a header may be any, and would be allocated.
    size = BLOCK_VALUES // file.channels if block_s is None else max(1, round(block_s * file.samplerate))
    while len(samples := file.read(size, dtype="float32", always_2d=True)):
        yield samples, file.samplerate


def _truncated(name: Path | str, count: int, stated: int) -> str:
    return f"{name} is truncated ({count} of {stated} samples): record or copy it again."


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
        coding, stated = read_wav_header(file) if file.read(4) == b"RIFF" else (b"", None)
    frame_bytes = int.from_bytes(coding[12:14], "little")
    return stated // frame_bytes if stated and frame_bytes else 0


def read_wav_header(file: BinaryIO) -> tuple[bytes, int | None]:
    """Read a WAV up to its samples, after its first 4 bytes.

    Returns:
        The content of its `fmt ` chunk, b"" without one, and the bytes of samples that it states: 0 if it does not know
        them, None without samples.
    """
    file.read(8)
    coding = b""
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return coding, stated_wav_bytes(size)
        if header[:4] == b"fmt " and size <= MAX_CHUNK:
            coding = file.read(size + size % 2)
            continue
        left = size + size % 2
        while left and (passed := len(file.read(min(left, 1 << 16)))):
            left -= passed
    return coding, None
