"""Audio files for tests, sound and damaged ones."""

from __future__ import annotations

import numpy as np
import soundfile

RATE = 16000


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def damaged(folder) -> dict[str, str]:
    """File name -> a word of what is wrong with it."""
    soundfile.write(folder / "whole.wav", tone(RATE), RATE)
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
    whole = (folder / "whole.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "header.wav").write_bytes(whole[:30])
    (folder / "cut.flac").write_bytes((folder / "whole.flac").read_bytes()[:9000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no audio " * 100)
    soundfile.write(folder / "silent.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    return {
        "cut.wav": "truncated",
        "header.wav": "cannot be read",
        "cut.flac": "cannot be read",
        "empty.wav": "0 bytes",
        "text.wav": "cannot be read",
        "silent.wav": "no samples",
        "nan.wav": "not finite",
        "missing.wav": "not a file",
    }


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """Noise with a slope, a hum and an offset, so that no option (DC removal, pre-emphasis) goes unnoticed."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / RATE
    samples = 0.1 * rng.standard_normal(num_samples) + 0.2 * np.sin(2 * np.pi * 440 * t) + 0.05
    return samples.astype(np.float32)


def without_its_first_frame(mp3: bytes) -> bytes:
    """An MP3 without the frame in which encoders state its length; that of these files is of MPEG 1, layer III."""
    kbps = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[(mp3[2] >> 4) - 1]
    rate = (44100, 48000, 32000)[mp3[2] >> 2 & 3]
    return mp3[144_000 * kbps // rate + (mp3[2] >> 1 & 1) :]


def write_wav(path, count=1600):
    """Write `count` samples of noise, with the folders above the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).integers(-3000, 3000, count).astype(np.int16), 16000)
