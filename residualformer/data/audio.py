"""Reading audio files of any format, rate and channel count that libsndfile opens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from residualformer.errors import UserError

MP3_ESTIMATE = 0.01  # by so much may the length that libsndfile makes out before it decodes an MP3 be wrong


def read_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Samples (S,) float32 in [-1, 1] of one file: channels averaged, resampled to `sample_rate_hz` by soxr.

    Raises UserError as `audio_blocks`.
    """
    blocks = list(audio_blocks(path))
    mono, rate = np.concatenate([samples.mean(axis=1) for samples, _ in blocks]), blocks[0][1]
    return resample(mono, rate, sample_rate_hz)


def resample(mono: np.ndarray, rate: int, sample_rate_hz: int) -> np.ndarray:
    """Samples (S,) at `rate` as samples at `sample_rate_hz`, float32, by soxr; as they are when the rates agree."""
    return mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz).astype(np.float32)


def audio_blocks(path: Path | str, block_s: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of at most `block_s` seconds (None: all at once) of a file: samples (S, channels) float32, and their rate.

    Raises UserError when the file is missing, unreadable, cut off before the length its header states, without
    samples, or holds values that are not finite; what is wrong beyond the header shows when it is reached.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of an audio file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): record or copy it again.")
    try:
        with soundfile.SoundFile(path) as file:
            stated = max(file.frames, stated_wav_frames(path) if file.format == "WAV" else 0)
            if file.frames < stated:  # libsndfile silently shortens a WAV that is cut off
                raise UserError(_truncated(path, file.frames, stated))
            stated = round(stated * (1 - MP3_ESTIMATE if file.format == "MP3" else 1))
            yield from checked(_blocks(file, block_s), str(path), stated)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio ({error.error_string}): convert it to WAV or FLAC.") from error


def checked(blocks: Iterable[tuple[np.ndarray, int]], name: str, stated: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """`blocks`, each samples (S, ...) and their rate; UserError, which tells `name`, for audio that is no good.

    Samples must be finite, and `stated` in all, or any number but none if that is 0.
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


def _blocks(file: soundfile.SoundFile, block_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    size = -1 if block_s is None else max(1, round(block_s * file.samplerate))
    while len(samples := file.read(size, dtype="float32", always_2d=True)):
        yield samples, file.samplerate


def _truncated(name: Path | str, count: int, stated: int) -> str:
    return f"{name} is truncated ({count} of {stated} samples): record or copy it again."


def stated_wav_bytes(size: int) -> int:
    """What the size of a WAV's data chunk tells: bytes of samples; 0 where the writer did not know, as into a pipe.

    Then ffmpeg states 4 GB, sox and espeak-ng 0x7FFFF000 less what is no whole frame, arecord 2 GB, others nothing.
    """
    return 0 if size >= 0xFFFFFFFF - 8 or 0x7FFFF000 - 64 <= size <= 0x80000000 else size


def stated_wav_frames(path: Path) -> int:
    """Samples per channel that the header of a RIFF file announces; 0 where it does not say.

    libsndfile, and so soundfile and Lhotse, silently shorten a truncated WAV to what is there.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        file.seek(12)
        block = 0
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"fmt ":
                block = int.from_bytes(file.read(size)[12:14], "little")
            elif header[:4] == b"data":
                return stated_wav_bytes(size) // block if block else 0
            else:
                file.seek(size, 1)
            if size % 2:
                file.seek(1, 1)
    return 0
