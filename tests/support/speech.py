"""A sound like speech, from numbers alone: voiced syllables with formants, hisses, a faint background."""

from __future__ import annotations

import numpy as np

RATE = 16000
SYLLABLES, SYLLABLE_S = 12, 0.2


def speech(seed: int = 0, peak: float = 0.3) -> np.ndarray:
    """Return about 2.4 s of samples (S,) float32 whose largest is `peak`."""
    rng = np.random.default_rng(seed)
    size = round(SYLLABLE_S * RATE)
    hz, time = np.fft.rfftfreq(size, 1 / RATE), np.arange(size) / RATE
    syllables = []
    for n in range(SYLLABLES):
        if n % 4 == 3:
            source, formants = rng.standard_normal(size) * 0.3, [(5000.0, 1500.0)]
        else:
            source = ((time * rng.uniform(90, 220)) % 1 < 0.02).astype(float) * 8
            formants = [
                (rng.uniform(300, 800), 80.0),
                (rng.uniform(900, 2300), 120.0),
                (rng.uniform(2500, 3300), 180.0),
            ]
        shape = sum(1 / (1 + ((hz - middle) / width) ** 2) / (1 + i) for i, (middle, width) in enumerate(formants))
        syllable = np.fft.irfft(np.fft.rfft(source) * shape, size) * np.hanning(size)
        syllables.append(syllable * rng.uniform(0.3, 1))
    samples = np.concatenate(syllables)
    samples += 3e-4 * np.abs(samples).max() * rng.standard_normal(len(samples))
    return (peak * samples / np.abs(samples).max()).astype(np.float32)
