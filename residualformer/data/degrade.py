"""Levels, telephone lines, noise and rooms applied to samples, for augmentation, its tests and benchmarks.

Codecs are those of libsndfile. Needs neither torch nor Lhotse.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile

from residualformer.data.audio import resample
from residualformer.errors import UserError

TELEPHONE_HZ = 8000
TELEPHONE_BAND_HZ = (300.0, 3400.0)  # ITU-T G.712
CODECS = {"mu-law": "ULAW", "A-law": "ALAW", "GSM": "GSM610"}  # G.711 and GSM 06.10, as libsndfile names them
FILTER_S = 0.016  # length of the band-pass
STEPS = 1 << 15  # of 16-bit samples, on either side


def at_level(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Return samples (S,) `gain_db` louder, as a recorder of 16 bits keeps them: rounded, and clipped to [-1, 1)."""
    scaled = np.rint(samples * (10 ** (gain_db / 20) * STEPS))
    return (np.clip(scaled, -STEPS, STEPS - 1) / STEPS).astype(np.float32)


def band_limited(samples: np.ndarray, rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Return samples (S,) after a symmetric band-pass filter, a sinc under a Hamming window."""
    half = round(FILTER_S * rate_hz / 2)
    time = np.arange(-half, half + 1)

    def low_pass(hz: float) -> np.ndarray:
        return 2 * hz / rate_hz * np.sinc(2 * hz / rate_hz * time)

    taps = (low_pass(high_hz) - low_pass(low_hz)) * np.hamming(len(time))
    size = len(samples) + 2 * half
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(taps, size)
    return np.fft.irfft(spectrum, size)[half : half + len(samples)].astype(np.float32)


def through_telephone(samples: np.ndarray, rate_hz: int, codec: str | None = None, band: bool = False) -> np.ndarray:
    """Return samples (S,) after a line of 8 kHz, at their own rate again.

    Args:
        codec: one of `CODECS`; None for a line that only rounds to 16 bits.
        band: whether the line also passes `TELEPHONE_BAND_HZ` only.

    Raises:
        UserError: the codec is unknown.
    """
    if codec is not None and codec not in CODECS:
        raise UserError(f"the codec is '{codec}'; allowed are {', '.join(CODECS)}.")
    line = resample(samples, rate_hz, TELEPHONE_HZ)
    if band:
        line = band_limited(line, TELEPHONE_HZ, *TELEPHONE_BAND_HZ)
    line = coded(line, TELEPHONE_HZ, codec) if codec else at_level(line, 0.0)
    back = resample(line, TELEPHONE_HZ, rate_hz)
    return np.pad(back, (0, max(0, len(samples) - len(back))))[: len(samples)]


def with_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return samples (S,) with `noise` (S,) at a signal-to-noise ratio of their mean powers; silence has none."""
    power, noise_power = (float(np.mean(np.square(x, dtype=np.float64))) for x in (samples, noise))
    factor = np.sqrt(power / noise_power) * 10 ** (-snr_db / 20) if noise_power else 0.0
    return (samples + factor * noise).astype(np.float32)


def room_response(rt60_s: float, direct_db: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Return the impulse response (R,) of a room: the direct sound first, then noise that decays exponentially.

    That is Polack's model of reverberation; it leaves out early echoes and that high frequencies decay faster.

    Args:
        rt60_s: the time in which the energy falls by 60 dB, where the response ends.
        direct_db: the energy of the direct sound over that of all the rest.
    """
    size = max(2, round(rt60_s * rate_hz))
    response = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / (rt60_s * rate_hz))
    response[0] = 0.0
    response *= 10 ** (-direct_db / 20) / np.linalg.norm(response)
    response[0] = 1.0
    return response


def in_room(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return samples (S,) in a room of the impulse response `response` (R,), as loud as they were."""
    size = 1 << (len(samples) + len(response) - 2).bit_length()  # a length of large factors takes several times as long
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    energy = float(np.square(heard).sum())
    factor = np.sqrt(np.square(samples, dtype=np.float64).sum() / energy) if energy else 0.0
    return (factor * heard).astype(np.float32)


def coded(samples: np.ndarray, rate_hz: int, codec: str) -> np.ndarray:
    """Return samples (S,) float32 after `codec`, one of `CODECS`."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1 - 1 / STEPS), rate_hz, format="WAV", subtype=CODECS[codec])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return decoded[: len(samples)]
