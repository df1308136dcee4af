"""Feature extraction for a corpus: speed copies, arrays on disk, mean and variance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from lhotse import Features, MonoCut, NumpyFilesWriter
from lhotse.utils import fastcopy

from residualformer.config.schema import FeatureConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.audio import rate_problem, resample
from residualformer.data.feature_backends import get_backend
from residualformer.data.features import KnfFbank
from residualformer.errors import UserError

CUTS_PER_TASK = 32
MAX_NAME_BYTES = 200  # of a file; file systems allow 255, including what Lhotse adds


@dataclass
class Sums:
    """Sum and sum of squares of frames, each (F,) float64, and their number."""

    total: np.ndarray
    squares: np.ndarray
    frames: int = 0

    @classmethod
    def of(cls, features: np.ndarray) -> Sums:
        """Return the sums over features (T, F)."""
        features = features.astype(np.float64)
        return cls(features.sum(axis=0), np.square(features).sum(axis=0), len(features))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.squares + other.squares, self.frames + other.frames)

    def cmvn(self) -> dict[str, Any]:
        """Return {"mean": [F], "std": [F], "frames": n}. A constant bin gets a small deviation instead of 0."""
        mean = self.total / self.frames
        variance = np.maximum(self.squares / self.frames - np.square(mean), 1e-4)
        return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist(), "frames": self.frames}


@dataclass
class Extracted:
    """The result of extracting features of some cuts.

    Attributes:
        cuts: with features.
        sums: over these; None if there are none.
        skipped: "id: reason" for each cut without features.
    """

    cuts: list[MonoCut] = field(default_factory=list)
    sums: Sums | None = None
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Extracted) -> None:
        """Append the result for other cuts."""
        self.cuts += other.cuts
        self.skipped += other.skipped
        if other.sums:
            self.sums = self.sums + other.sums if self.sums else other.sums


def with_speeds(cuts: Iterable[MonoCut], speeds: Sequence[float]) -> list[MonoCut]:
    """Return a copy of every cut at every speed, made by Lhotse's `perturb_speed`.

    Ids get a suffix such as `_sp0.9`, none at speed 1. A copy's `custom` holds the id of the original (`utterance`) and
    the `speed`.
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
    map_: Callable[..., Iterable[Extracted]] = map,
    dtype: type[np.floating] = np.float32,
    backend: str = "knf",
) -> Iterator[Extracted]:
    """Compute and store the features of `cuts`, one array file per cut.

    Channels are averaged and other rates resampled, as `audio.read_audio` does. Cuts whose audio cannot be read are
    skipped.

    Args:
        config: the definition of the features.
        arrays: folder of the array files.
        map_: such as `parallel.worker_map` yields.
        dtype: of the arrays (T, F).
        backend: one of `feature_backends.BACKENDS`.

    Yields:
        The results in order, part by part.

    Raises:
        OSError: an array cannot be written.
    """
    task = partial(_extract_part, config=config, arrays=arrays, dtype=dtype, backend=backend)
    yield from map_(task, [cuts[i : i + CUTS_PER_TASK] for i in range(0, len(cuts), CUTS_PER_TASK)])


def _extract_part(
    cuts: list[MonoCut], config: FeatureConfig, arrays: Path, dtype: type[np.floating], backend: str
) -> Extracted:
    extractor, writer, result = get_backend(backend, config), NumpyFilesWriter(str(arrays)), Extracted()
    for cut in cuts:
        try:
            array = _features(cut, extractor)
        except UserError:
            raise
        except Exception as error:  # the audio libraries raise many kinds for a broken file
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
        result.add(Extracted([fastcopy(cut, features=manifest)], Sums.of(array)))
    return result


def _file_name(name: str) -> str:
    """Return a file name for an utterance's id, which may hold any character; long ones end in a digest."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= MAX_NAME_BYTES else quoted[:100] + hashlib.sha256(name.encode()).hexdigest()[:32]


def _features(cut: MonoCut, extractor: KnfFbank) -> np.ndarray:
    """Compute features (T, F) of a cut; raise ValueError if its audio is unusable."""
    if problem := rate_problem(cut.sampling_rate):
        raise ValueError(f"the audio {problem}")
    rate = extractor.config.sample_rate_hz
    samples = resample(cut.load_audio().mean(axis=0), cut.sampling_rate, rate)  # (S,)
    array = extractor.extract(samples, rate)
    if len(array) == 0:
        raise ValueError(f"{len(samples)} samples are too few for a frame")
    if not np.isfinite(array).all():
        raise ValueError("the audio holds values that are not finite")
    return array
