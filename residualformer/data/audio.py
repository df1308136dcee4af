"""Audio files of any format, rate and number of channels, to their true end. Needs neither torch nor Lhotse.

libsndfile decodes; where its idea of the length may be wrong, the file is read through a view of it that has another
header (mp3.py). What it does not know goes through ffmpeg (ffmpeg.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from residualformer.data.ffmpeg import container_of, ffmpeg_blocks
from residualformer.data.mixing import layout_of, mix
from residualformer.data.mp3 import Frames, find_frames, read_header, whole_stream
from residualformer.data.wav import MP3, read_wav_header, stated_wav_frames
from residualformer.errors import UserError

BLOCK_VALUES = 1 << 22  # of all channels together, where no other length of a block is asked for
CONTAINER_BLOCK_S = 10.0  # the same of what ffmpeg reads
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 384_000  # a damaged header may state any rate, and resampling take all memory
MP3_MISSING = 0.01  # of the frames that an MP3 states: encoders count them in several ways
LOUDEST = 16.0  # floats beyond are on another scale than [-1, 1]: decoders overshoot by a few dB
UNKNOWN = 1 << 62  # libsndfile's number of samples of a FLAC that does not state it is larger


class SoundFile(soundfile.SoundFile):
    """An audio file in libsndfile, of which all samples are read.

    Attributes:
        stated: samples per channel that the header promises, 0 where it does not tell.
    """

    stated: int = 0

    def seekable(self) -> bool:
        # soundfile seeks after each read, and believes the header's length, if it may; libsndfile cannot seek to the
        # end of a FLAC of unknown length.
        return False


def read_audio(path: Path | str, sample_rate_hz: int, channel: int | None = None) -> np.ndarray:
    """Read a file as samples (S,) float32 in [-1, 1]; other rates than the given are resampled.

    Args:
        channel: the only one to read, from 0; None: the mix of all, see `mixing`.

    Raises:
        UserError: see `audio_blocks`, or there is no such channel.
    """
    blocks = list(audio_blocks(path))
    layout = layout_of(Path(path)) if channel is None and blocks[0][0].shape[1] > 2 else 0
    mono = np.concatenate([one_channel(samples, channel, str(path), layout) for samples, _ in blocks])
    return resample(mono, blocks[0][1], sample_rate_hz)


def one_channel(samples: np.ndarray, channel: int | None, name: str, layout: int = 0) -> np.ndarray:
    """Return a channel of samples (S, C), or `mix` of all; UserError if the audio `name` has no such channel."""
    if channel is None:
        return mix(samples, layout)
    if not 0 <= channel < samples.shape[1]:
        raise UserError(f"{name} has {samples.shape[1]} channels, from 0; there is no channel {channel}.")
    return samples[:, channel]


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
            rate or scale, or holds values that are not finite. Errors beyond the header are raised when they are
            reached.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of an audio file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): record or copy it again.")
    if container := container_of(path):
        yield from checked(ffmpeg_blocks(path, container, block_s or CONTAINER_BLOCK_S), str(path))
        return
    try:
        with open_sound(path) as file:
            if problem := rate_problem(file.samplerate):
                raise UserError(f"{path} {problem}: convert it to WAV or FLAC.")
            if file.frames < file.stated:  # libsndfile silently shortens a WAV that is cut off
                raise UserError(_truncated(path, file.frames, file.stated))
            yield from checked(_blocks(file, block_s), str(path), file.stated)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio ({error.error_string}): convert it to WAV or FLAC.") from error


@contextmanager
def open_sound(path: Path) -> Iterator[SoundFile]:
    """Open a file in libsndfile so that reading goes to its true end.

    Raises:
        UserError: it has no header.
        soundfile.LibsndfileError: libsndfile cannot read it.
    """
    if path.suffix.lower() == ".raw":  # soundfile would take any such file for samples, and ask for their rate
        raise UserError(f"{path} is raw audio without a header that tells its rate: convert it to WAV or FLAC.")
    frames = _untold_mp3(path)
    if frames is not None:
        with closing(whole_stream(path, frames)) as stream, SoundFile(stream) as file:
            yield file
        return
    with SoundFile(os.fsencode(path)) as file:  # a name may hold bytes that are not UTF-8
        stated = 0 if file.frames > UNKNOWN else file.frames
        if file.format == "WAV":
            stated = max(stated, stated_wav_frames(path))
        file.stated = round(stated * (1 - MP3_MISSING if file.subtype == "MPEG_LAYER_III" else 1))
        yield file


def audio_length_s(path: Path) -> float | None:
    """Return about how long a file is, without decoding it; None if that is not known. UserError as `open_sound`."""
    try:
        if container_of(path) is not None:
            return None
        if frames := _untold_mp3(path):
            return frames.seconds
        with open_sound(path) as file:
            return file.stated / file.samplerate if file.stated else None
    except (OSError, soundfile.LibsndfileError):
        return None


def num_channels(path: Path) -> int:
    """Return the number of channels of a file; UserError as `audio_blocks`."""
    return next(audio_blocks(path, block_s=0.01))[0].shape[1]


def _untold_mp3(path: Path) -> Frames | None:
    """Return the frames of an MP3, also one in a WAV, whose header does not state them all; None for other files."""
    state = path.stat()
    return _find_untold(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)  # a long recording has many utterances
def _find_untold(path: Path, size: int, modified_ns: int) -> Frames | None:
    with open(path, "rb") as file:
        begins, start = file.read(4), 0
        if begins == b"RIFF":
            header = read_wav_header(file)
            if header.tag != MP3 or header.stated_bytes is None:
                return None
            start = file.tell()
            end = start + header.stated_bytes if header.stated_bytes else size
        elif begins[:3] == b"ID3" or read_header(begins):
            end = size
        else:
            return None
    frames = find_frames(path, start, end)
    told = frames is not None and frames.stated is not None and frames.number <= frames.stated
    return None if told and start == 0 else frames


def checked(blocks: Iterable[tuple[np.ndarray, int]], name: str, stated: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the blocks of the audio `name`, samples (S, ...) and their rate, while checking them.

    Raises:
        UserError: some samples are not finite or on another scale, or there are none, or fewer than the header has
            `stated` (0: unknown).
    """
    count = 0
    for samples, rate in blocks:
        if problem := value_problem(samples):
            raise UserError(f"{name} {problem}.")
        count += len(samples)
        yield samples, rate
    if count < stated:
        raise UserError(_truncated(name, count, stated))
    if count == 0:
        raise UserError(f"{name} has no samples: record or copy it again.")


def value_problem(samples: np.ndarray) -> str:
    """Return what is wrong with the values of samples, and what to do; "" if nothing is."""
    if not np.isfinite(samples).all():
        return "holds values that are not finite: record or convert it again"
    if samples.dtype.kind == "f" and samples.size and (loudest := float(np.abs(samples).max())) > LOUDEST:
        return (
            f"holds floats of up to {loudest:.0f}, where 1 is full scale; it looks like 16-bit integers as floats: "
            "divide by 32768"
        )
    return ""


def write_flac(blocks: Iterable[tuple[np.ndarray, int]], path: Path) -> None:
    """Write blocks, samples (S, channels) and their rate, as FLAC of 16 bits."""
    file: soundfile.SoundFile | None = None
    try:
        for samples, rate in blocks:
            if file is None:
                file = soundfile.SoundFile(os.fsencode(path), "w", rate, samples.shape[1], "PCM_16", format="FLAC")
            file.write(samples)
    finally:
        if file is not None:
            file.close()


def rate_problem(rate_hz: int) -> str:
    """Return why a sampling rate is impossible, or "" if it is not."""
    if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        return ""
    return f"states a sampling rate of {rate_hz} Hz; allowed are {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"


def _blocks(file: SoundFile, block_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    # Never all at once: the length in a header may be any, and would be allocated.
    size = BLOCK_VALUES // file.channels if block_s is None else max(1, round(block_s * file.samplerate))
    while len(samples := file.read(size, dtype="float32", always_2d=True)):
        yield samples, file.samplerate


def _truncated(name: Path | str, count: int, stated: int) -> str:
    return f"{name} is truncated ({count} of {stated} samples): record or copy it again."
