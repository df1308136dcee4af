"""Copies of utterances at other speeds, by Lhotse, and their samples."""

from __future__ import annotations

import numpy as np
from lhotse import MonoCut
from lhotse.augmentation import Speed
from lhotse.utils import fastcopy, perturb_num_samples

from residualformer.data.audio import resample
from residualformer.data.manifest import BadCut, load_mono


def at_speed(cut: MonoCut, speed: float) -> MonoCut:
    """Return a copy of a cut at a speed, made by Lhotse's `perturb_speed`.

    Its id gets a suffix such as `_sp0.9`, none at speed 1. Its `custom` holds the id of the original (`utterance`) and
    the `speed`.
    """
    copy = cut if speed == 1.0 else cut.perturb_speed(speed)
    return fastcopy(copy, custom={**(cut.custom or {}), "utterance": cut.id, "speed": float(speed)})


def load_at_speed(copy: MonoCut, speed: float, rate_hz: int, original: MonoCut | None = None) -> np.ndarray:
    """Return the samples (S,) float32, at `rate_hz`, of a copy that `at_speed` made.

    Args:
        original: what it was made of. Without it the audio of another rate may have a sample more or less at its end.

    Raises:
        Exception: see `manifest.load_audio`.
    """
    if copy.sampling_rate == rate_hz:
        return load_mono(copy)
    # Lhotse would resample twice, and take 1 GB where rate and speed have no large factor in common, as 11025 Hz.
    original = original or recorded(copy, speed)
    return resample(load_mono(original), round(original.sampling_rate * speed), rate_hz)


def recorded(copy: MonoCut, speed: float) -> MonoCut:
    """Return the cut that `at_speed` made `copy` of, as far as its audio goes, to one sample.

    Raises:
        BadCut: the copy is not at that speed.
    """
    if speed == 1.0:
        return copy
    recording = copy.recording
    *before, last = (
        Speed.from_dict(each) if isinstance(each, dict) else each for each in recording.transforms or [None]
    )
    if last != Speed(speed):
        raise BadCut(f"its audio is not at the speed {speed} that it states")
    rate = recording.sampling_rate
    start, duration = last.reverse_timestamps(copy.start, copy.duration, rate)
    count = perturb_num_samples(recording.num_samples, 1 / speed)
    whole = fastcopy(recording, num_samples=count, duration=count / rate, transforms=before or None)
    return fastcopy(copy, start=start, duration=duration, recording=whole)
