"""Features of whole corpora: speed copies, parallel extraction into array files, mean and variance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from lhotse import Features, MonoCut, NumpyFilesWriter
from lhotse.utils import fastcopy

from residualformer.config.schema import FeatureConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.audio import resample
from residualformer.data.feature_backends import get_backend
from residualformer.data.features import KnfFbank
from residualformer.errors import UserError

CUTS_PER_TASK = 32
LONGEST_NAME = 200  # bytes of a file's name; file systems take 255, with what is put before and behind it


@dataclass
class Sums:
    """Running sum and sum of squares of frames, each (F,) float64."""

    total: np.ndarray
    squares: np.ndarray
    frames: int = 0

    @classmethod
    def of(cls, features: np.ndarray) -> Sums:
        features = features.astype(np.float64)
        return cls(features.sum(axis=0), np.square(features).sum(axis=0), len(features))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.squares + other.squares, self.frames + other.frames)

    def cmvn(self) -> dict:
        """{"mean": [F], "std": [F], "frames": n}; a bin that never moves gets a small std, not 0."""
        mean = self.total / self.frames
        variance = np.maximum(self.squares / self.frames - np.square(mean), 1e-4)
        return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist(), "frames": self.frames}


@dataclass
class Extracted:
    """What came of some cuts."""

    cuts: list[MonoCut] = field(default_factory=list)
    sums: Sums | None = None
    skipped: list[str] = field(default_factory=list)  # 'id: reason'

    def add(self, other: Extracted) -> None:
        self.cuts += other.cuts
        self.skipped += other.skipped
        sums = [s for s in (self.sums, other.sums) if s is not None]
        self.sums = sum(sums[1:], start=sums[0]) if sums else None


def with_speeds(cuts: Iterable[MonoCut], speeds: Sequence[float]) -> list[MonoCut]:
    """Every cut at every speed; `custom` tells which utterance (`utterance`) at which `speed` a copy is.

    Ids, durations and the audio itself are Lhotse's: `perturb_speed`, id suffix `_sp0.9`; speed 1 has no suffix.
    """
    copies = []
    for cut in cuts:
        for speed in speeds:
            copy = cut if speed == 1.0 else cut.perturb_speed(speed)
            copies.append(fastcopy(copy, custom={**(cut.custom or {}), "utterance": cut.id, "speed": float(speed)}))
    return copies


def extract_features(
    cuts: list[MonoCut],
    config: FeatureConfig,
    arrays: Path,
    map_: Callable = map,
    dtype: type = np.float32,
    backend: str = "knf",
) -> Iterator[Extracted]:
    """Compute and store the features of `cuts`; yields the results in order, part by part.

    One array file (T, F) of `dtype` per cut, under `arrays`. A cut whose audio cannot be read is skipped with its
    reason; a disk that refuses the array raises OSError. Channels are averaged and other rates resampled as when a
    file is transcribed (`audio.read_audio`).
    `map_` may come from `parallel.worker_map`; `backend` is one of `feature_backends.BACKENDS`.
    """
    task = partial(_extract_some, config=config, arrays=arrays, dtype=dtype, backend=backend)
    yield from map_(task, [cuts[i : i + CUTS_PER_TASK] for i in range(0, len(cuts), CUTS_PER_TASK)])


def _extract_some(cuts: list[MonoCut], config: FeatureConfig, arrays: Path, dtype: type, backend: str) -> Extracted:
    extractor, writer, result = get_backend(backend, config), NumpyFilesWriter(str(arrays)), Extracted()
    for cut in cuts:
        try:
            array = _features(cut, extractor)
        except UserError:
            raise
        except Exception as error:  # whatever a broken file makes the audio libraries raise
            reason = " ".join(str(error).split())[:200]
            result.skipped.append(f"{cut.id}: {type(error).__name__}: {reason}")
            continue
        key = writer.write(_file_name(cut.id), array.astype(dtype))
        manifest = Features(
            type=KnfFbank.name,
            num_frames=len(array),
            num_features=array.shape[1],
            frame_shift=FRAME_SHIFT_S,
            sampling_rate=config.sample_rate_hz,
            start=cut.start,
            duration=cut.duration,
            storage_type=writer.name,
            storage_path=str(writer.storage_path),
            storage_key=key,
            recording_id=cut.recording_id,
            channels=cut.channel,
        )
        sums = Sums.of(array)
        result.add(Extracted([fastcopy(cut, features=manifest)], sums))
    return result


def _file_name(name: str) -> str:
    """For an utterance's id, which may be a path or hold any character, the name of a file; of a long one a digest."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= LONGEST_NAME else quoted[:100] + hashlib.sha256(name.encode()).hexdigest()[:32]


def _features(cut: MonoCut, extractor: KnfFbank) -> np.ndarray:
    rate = extractor.config.sample_rate_hz
    samples = resample(cut.load_audio().mean(axis=0), cut.sampling_rate, rate)  # (S,)
    array = extractor.extract(samples, rate)
    if len(array) == 0:
        raise ValueError(f"{len(samples)} samples are too few for a frame")
    if not np.isfinite(array).all():
        raise ValueError("the audio holds values that are not finite")
    return array
