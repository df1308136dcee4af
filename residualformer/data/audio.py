"""Reading audio files of any format, rate and channel count that libsndfile opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from residualformer.errors import UserError


def read_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Samples (S,) float32 in [-1, 1] of one file: channels averaged, resampled to `sample_rate_hz` by soxr.

    Raises UserError when the file is missing, unreadable, cut off before the length its header states, without
    samples, or holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of an audio file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): record or copy it again.")
    try:
        with soundfile.SoundFile(path) as file:
            stated, rate, format_name = file.frames, file.samplerate, file.format
            samples = file.read(dtype="float32", always_2d=True)  # (S, channels)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio ({error.error_string}): convert it to WAV or FLAC.") from error
    if format_name == "WAV":
        stated = max(stated, stated_wav_frames(path))
    if len(samples) < stated:
        raise UserError(f"{path} is truncated ({len(samples)} of {stated} samples): record or copy it again.")
    if len(samples) == 0:
        raise UserError(f"{path} has no samples: record or copy it again.")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are not finite: record or convert it again.")
    mono = samples.mean(axis=1)
    return mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz).astype(np.float32)


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
                unknown = size >= 0xFFFFFFFF - 8 or size == 0  # written to a pipe: the length was not known
                return 0 if unknown or not block else size // block
            else:
                file.seek(size, 1)
            if size % 2:
                file.seek(1, 1)
    return 0
