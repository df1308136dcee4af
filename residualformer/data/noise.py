"""Folders of recorded noise, such as MUSAN's: which files are there, and excerpts of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from residualformer.data.audio import audio_length_s, rate_problem, resample, value_problem
from residualformer.data.manifest import BACKEND
from residualformer.errors import UserError

log = logging.getLogger(__name__)

MAX_NAMED = 5  # files of a folder that are no audio


class NoiseFile(NamedTuple):
    path: Path
    seconds: float  # as its header states


def find_noise(folders: Sequence[str]) -> list[NoiseFile]:
    """Return all audio in folders and those below, in the order of their names; log what else is there.

    Raises:
        UserError: a folder is missing or cannot be read, or holds no audio.
    """
    found = []
    for folder in folders:
        try:
            next(Path(folder).iterdir(), None)  # rglob would take a folder that is missing for an empty one
            paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        except OSError as error:
            raise UserError(
                f"data.waveform.noise names {folder}, which is no folder that can be read ({error.strerror}): mend it, "
                "or set data.waveform.noise_probability to 0."
            ) from error
        problems: dict[Path, str] = {}
        for path in paths:
            try:
                if seconds := audio_length_s(path):
                    found.append(NoiseFile(path, seconds))
                else:
                    problems[path] = "not audio whose header tells its length"
            except (UserError, OSError) as error:
                problems[path] = str(error)
        told = _told(problems)
        if len(problems) == len(paths):
            raise UserError(
                f"{folder}, of data.waveform.noise, holds no audio{f' ({told})' if told else ''}: give a folder with "
                "WAV or FLAC files."
            )
        if problems:
            log.warning("%d of %d files in %s are not used as noise: %s", len(problems), len(paths), folder, told)
    return found


def read_excerpt(noise: NoiseFile, place: float, size: int, rate_hz: int) -> np.ndarray:
    """Return `size` samples (S,) float32 of a file at `rate_hz`; what is shorter is repeated.

    Args:
        place: from 0 to below 1, from the first possible excerpt to the last.

    Raises:
        ValueError: the file states another length than it has, or impossible values.
        Exception: whatever libsndfile raises for audio that it cannot read.
    """
    seconds = size / rate_hz
    is_short = noise.seconds <= seconds
    start_s = 0.0 if is_short else place * (noise.seconds - seconds)
    samples, rate = BACKEND.read_audio(noise.path, start_s, None if is_short else seconds)
    if problem := rate_problem(rate) or value_problem(samples):
        raise ValueError(f"it {problem}")
    if not samples.size:
        raise ValueError(f"it has no samples at {start_s:.1f} s, but states {noise.seconds:.1f} s")
    mono = resample(samples.mean(axis=0), rate, rate_hz)
    return np.resize(np.roll(mono, -int(place * len(mono))) if is_short else mono, size)


def _told(problems: Mapping[Path, str]) -> str:
    """Return the first of some files with what is wrong with them."""
    named = [f"{path}: {' '.join(reason.split())}" for path, reason in list(problems.items())[:MAX_NAMED]]
    return "; ".join([*named, "..."] if len(problems) > MAX_NAMED else named)
