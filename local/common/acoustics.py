"""Room responses, noise and levels for synthetic speech, in plain numpy and deterministic given the generator.

Signals are float32 of shape (samples,), with full scale at 1.0.
"""

from __future__ import annotations

import numpy as np
import soxr

COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # exponent c of the power spectrum 1 / f^c


def rms(signal: np.ndarray) -> float:
    """Return the root mean square of a signal, 0 for an empty one."""
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64)))) if len(signal) else 0.0


def resample(signal: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """Resample a signal, band-limited; int16 is converted to float32 in [-1, 1) first."""
    if signal.dtype == np.int16:
        signal = signal.astype(np.float32) / 32768
    return soxr.resample(signal, source_hz, target_hz, quality="HQ").astype(np.float32)


def colored_noise(count: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise (count,) of unit RMS whose power falls as 1 / frequency^exponent."""
    spectrum = np.fft.rfft(rng.standard_normal(count, dtype=np.float32))
    bins = np.arange(len(spectrum))
    spectrum *= np.maximum(bins, 1) ** (-exponent / 2)  # power is the square of the amplitude
    spectrum[0] = 0.0  # no constant offset
    noise = np.fft.irfft(spectrum, count)
    return (noise / max(rms(noise), 1e-9)).astype(np.float32)


def babble(voices: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sum (count,) of `voices`, each looped from a random offset, equally loud; scaled to unit RMS."""
    total = np.zeros(count, np.float32)
    for voice in voices:
        start = int(rng.integers(len(voice)))
        total += np.resize(np.roll(voice, -start), count) / max(rms(voice), 1e-9)
    return total / max(rms(total), 1e-9)


def room_response(rt60_s: float, direct_to_reverberant_db: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Return a synthetic room impulse response: the direct sound, then noise that decays by 60 dB in `rt60_s` seconds.

    The tail starts 2 to 10 ms later; its energy is `direct_to_reverberant_db` below that of the direct sound.
    """
    gap = int(rate_hz * rng.uniform(0.002, 0.010))
    time_s = np.arange(int(rate_hz * rt60_s)) / rate_hz
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / rt60_s)  # amplitude: 60 dB is a factor of 1000
    tail *= 10 ** (-direct_to_reverberant_db / 20) / np.linalg.norm(tail)
    return np.concatenate([[1.0], np.zeros(gap), tail]).astype(np.float32)


def reverberate(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve a signal with a room impulse response and cut the result to the length of the signal."""
    size = 1 << (len(signal) + len(response) - 2).bit_length()
    product = np.fft.rfft(signal, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(signal)].astype(np.float32)


def add_noise(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise, scaled so that the signal-to-noise ratio is `snr_db`."""
    scale = rms(signal) / max(rms(noise), 1e-9) * 10 ** (-snr_db / 20)
    return (signal + scale * noise).astype(np.float32)


def set_level(signal: np.ndarray, level_db: float) -> np.ndarray:
    """Scale a signal to an RMS of `level_db` relative to full scale, or as close to it as possible without clipping."""
    gain = 10 ** (level_db / 20) / max(rms(signal), 1e-9)
    peak = float(np.max(np.abs(signal), initial=1e-9))
    return (signal * min(gain, 0.99 / peak)).astype(np.float32)
