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
