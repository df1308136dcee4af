"""Audio files as Lhotse reads them for this package: by libsndfile, to their true end (audio.py)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.audio.backend import AudioBackend, LibsndfileCompatibleAudioInfo
from lhotse.utils import compute_num_samples

from residualformer.data.audio import SoundFile, open_sound


class TrueLengthBackend(AudioBackend):
    """Reads local files that libsndfile knows; the lengths of others are counted by decoding them."""

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[np.ndarray, int]:
        """Return samples (C, S) float32 from `offset` on, at most `duration` seconds, and their rate."""
        with open_sound(Path(path_or_fd)) as file:
            rate = file.samplerate
            if offset > 0:
                _seek(file, compute_num_samples(offset, rate))
            left = compute_num_samples(duration, rate) if duration is not None else None
            blocks = []
            while left != 0 and len(block := file.read(min(left or 1 << 20, 1 << 20), "float32", always_2d=True)):
                blocks.append(block)
                left = None if left is None else left - len(block)
            samples = np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32)
        return samples.T, rate

    def supports_info(self) -> bool:
        """Return that `info` can be called."""
        return True

    def info(self, path_or_fd: Any, force_opus_sampling_rate: int | None = None) -> LibsndfileCompatibleAudioInfo:
        """Return rate, channels and the number of samples that a file decodes to."""
        path = Path(path_or_fd)
        with open_sound(path) as file:
            rate, channels = file.samplerate, file.channels
        samples = count_samples(path)
        return LibsndfileCompatibleAudioInfo(channels, samples, rate, samples / rate)


def _seek(file: SoundFile, place: int) -> None:
    """Go to a sample; in an MP3, whose frames use bits of those before them, by decoding the second before it."""
    before = min(place, file.samplerate) if file.subtype == "MPEG_LAYER_III" else 0
    file.seek(place - before)
    file.read(before)


def count_samples(path: Path) -> int:
    """Return the samples per channel that a file decodes to; errors as of `open_sound`."""
    state = path.stat()
    return _decode_and_count(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)  # a long recording has many utterances
def _decode_and_count(path: Path, size: int, modified_ns: int) -> int:
    count = 0
    with open_sound(path) as file:
        while block := len(file.read(1 << 16, dtype="int16")):
            count += block
    return count
