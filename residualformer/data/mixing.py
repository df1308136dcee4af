"""From several channels to one.

Channels are averaged, unless the file says that they are those of surround sound (5.1 and others). There speech is in
the center, which an average over 6 channels would make 15.6 dB quieter, so they are added as in ITU-R BS.775's downward
mixing to mono:

    center + 0.7071 (left + right) + 0.5 (each of the others), without the channel of low frequencies
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residualformer.data.ffmpeg import container_of, ffmpeg_layout
from residualformer.data.wav import read_wav_header

LEFT, RIGHT, CENTER, LOW = 0x1, 0x2, 0x4, 0x8  # speakers in the mask of a WAV's header
BESIDE_CENTER = 0x40 | 0x80  # left and right of it
FLAC_LAYOUTS = {6: 0x3F, 8: 0x63F}  # RFC 9639, section 9.1.3: 5.1 and 7.1


def mix(samples: NDArray[np.float32], layout: int = 0) -> NDArray[np.float32]:
    """Return one channel (S,) of samples (S, C).

    Args:
        layout: the mask of speakers that the channels are of, in the order of its bits; 0: not known.
    """
    speakers = [1 << bit for bit in range(32) if layout >> bit & 1]
    if len(speakers) != samples.shape[1] or CENTER not in speakers:
        return samples.mean(axis=1)
    return samples @ np.array([_weight(speaker) for speaker in speakers], np.float32)


def layout_of(path: Path) -> int:
    """Return the mask of speakers that a file tells, 0 where it tells none. OSError if it cannot be read."""
    state = path.stat()
    return _layout_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)  # a long recording has many utterances
def _layout_of(path: Path, size: int, modified_ns: int) -> int:
    if container := container_of(path):
        return ffmpeg_layout(path, container)
    with open(path, "rb") as file:
        head = file.read(22)
        if head[:4] == b"RIFF":
            file.seek(4)
            return read_wav_header(file).layout
    # The first block describes the stream; its bits 100 to 102 tell the channels, less one.
    return FLAC_LAYOUTS.get((head[20] >> 1 & 7) + 1, 0) if head[:4] == b"fLaC" and len(head) == 22 else 0


def _weight(speaker: int) -> float:
    if speaker == LOW:
        return 0.0
    if speaker == CENTER:
        return 1.0
    return 0.7071 if speaker in (LEFT, RIGHT) or speaker & BESIDE_CENTER else 0.5
