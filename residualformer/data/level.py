"""Normalization of the level of log-mel features that streams: causal, bounded, the same however the audio is cut.

The level l of the speech is the energy of the loudest frame so far, and fades: l_t = max(e_t, l_{t-1} - `FADE_DB`).
Frame t is amplified by `TARGET_DB` - l_t, at most by `MOST_DB` up or down. So a word sets the level from its first
frames on, whatever the silence before it, and the background is not raised between words. Digital silence stays silent.

The samples are amplified by `MOST_DB` before the filterbank, and its frames by so much less, or its floor would cut off
what is quiet.
"""

from __future__ import annotations

import math

import numpy as np

LOG_PER_DB = math.log(10) / 10  # of an energy, whose logarithms here are natural
TARGET_DB = 0.0  # the energy of a loud frame, summed over bins
MOST_DB = 40.0
AMPLIFIED = np.float32(10 ** (MOST_DB / 20))  # factor of the samples
FADE_DB = 0.03  # a frame: 3 dB a second


class StreamingLevel:
    """The level of one stream, and its normalization.

    Args:
        floor: the log energy of digital silence.
    """

    def __init__(self, floor: float) -> None:
        self._silence = floor + 1e-4  # a few roundings above it
        self._floor = floor
        self._level = TARGET_DB - MOST_DB  # dB; before anything is heard all may be very quiet

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the next frames (t, F) float32, of samples that were `AMPLIFIED`, at the level of the target."""
        normalized = np.empty_like(features)
        for row, frame in enumerate(features):
            top = float(frame.max())
            energy = (top + math.log(float(np.exp(frame - top).sum()))) / LOG_PER_DB - MOST_DB
            self._level = max(energy, self._level - FADE_DB, TARGET_DB - MOST_DB)
            gain = np.float32(LOG_PER_DB * (max(TARGET_DB - self._level, -MOST_DB) - MOST_DB))
            moved = np.maximum(frame + gain, np.float32(self._floor))
            normalized[row] = np.where(frame > self._silence, moved, frame)
        return normalized
