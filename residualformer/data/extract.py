"""Feature extraction for a corpus: speed copies, arrays on disk, mean and variance."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter
from lhotse.utils import fastcopy
from tqdm import tqdm

from residualformer.config.schema import Config, FeatureConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.arrays import CHECKSUM, checksum
from residualformer.data.bad import refuse_many
from residualformer.data.feature_backends import get_backend
from residualformer.data.features import KnfFbank, Statistics, write_feature_files
from residualformer.data.manifest import read_cuts
from residualformer.data.shar import write_shar
from residualformer.data.speed import at_speed, load_at_speed
from residualformer.data.splits import SHARDS, cuts_file, cuts_files
from residualformer.data.summary import write_summary
from residualformer.errors import UserError
from residualformer.files import remove_leftovers, replacing
from residualformer.parallel import worker_map

CUTS_PER_TASK = 32
MAX_NAME_BYTES = 200  # of a file; file systems allow 255, including what Lhotse adds


@dataclass
class Extracted:
    """The result of extracting features of some cuts."""

    cuts: list[MonoCut] = field(default_factory=list)  # with features
    skipped: list[str] = field(default_factory=list)  # "id: reason" for each cut without features
    frames: int = 0
    total: np.ndarray | float = 0.0  # sum of the frames, (F,) float64
    squares: np.ndarray | float = 0.0  # sum of their squares, (F,) float64

    def add(self, other: Extracted) -> None:
        """Append the result for other cuts."""
        self.cuts += other.cuts
        self.skipped += other.skipped
        self.frames += other.frames
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def statistics(self) -> Statistics:
        """Return mean and deviation of each bin. A constant bin gets a small deviation instead of 0."""
        mean = np.divide(self.total, self.frames)
        variance = np.maximum(np.divide(self.squares, self.frames) - np.square(mean), 1e-4)
        return Statistics(mean.tolist(), np.sqrt(variance).tolist(), self.frames)


def compute_corpus_features(
    manifests: Path, out: Path, config: Config, jobs: int = 1, backend: str = "knf"
) -> dict[str, Extracted]:
    """Compute the features of a corpus, speed copies of the training set included.

    Args:
        manifests: folder of the cuts that stage 1 wrote; `train` must be there.
        out: folder for `cuts_<split>.jsonl.gz` with features, `arrays/`, `cmvn.json` (mean and standard deviation over
            the training set), `features.json` (the definition of the features) and a summary of the training set. With
            `data.shard_size` the training set's manifest and arrays become Lhotse Shar. Earlier results are removed.
        config: only its sections `features` and `data` are used.
        jobs: number of processes.
        backend: one of `feature_backends.BACKENDS`.

    Returns:
        The result for each split, train first.

    Raises:
        UserError: a manifest is missing or damaged, or a split is left without any features.
    """
    splits = dict.fromkeys(["train", *cuts_files(manifests)])
    cuts = {split: list(read_cuts(cuts_file(manifests, split), stage=1)) for split in splits}
    # No later stage may rely on cuts whose arrays are being replaced.
    for path in [*cuts_files(out).values(), *out.glob("*.json")]:
        path.unlink(missing_ok=True)
    for folder in (out / "arrays", out / SHARDS):
        shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(out)
    with worker_map(jobs, prepare=_use_one_thread) as map_:
        results = {split: _extract_split(split, cuts[split], config, out, map_, backend) for split in cuts}
    write_feature_files(out, config.features, results["train"].statistics())
    for split, result in results.items():
        if split == "train" and config.data.shard_size:
            write_shar(result.cuts, out / SHARDS, config.data.shard_size)
            shutil.rmtree(out / "arrays" / split)
            continue
        with replacing(cuts_file(out, split)) as path:
            CutSet.from_cuts(result.cuts).to_file(path)
        if split == "train":
            write_summary(result.cuts, cuts_file(out, split))
    return results


def _use_one_thread(process: int) -> None:
    torch.set_num_threads(1)


def _extract_split(
    split: str, cuts: list[MonoCut], config: Config, out: Path, map_: Callable[..., Iterable[Extracted]], backend: str
) -> Extracted:
    """Extract the features of a split, with a progress bar; print skipped utterances on stderr."""
    copies = list(product(cuts, config.data.speeds if split == "train" else [1.0]))
    # Half precision halves the reading in training, and its error (at most 0.004) is far below any noise. The other
    # splits keep every bit, so that they are scored on what a deployed model sees.
    dtype = np.float16 if split == "train" else np.float32
    arrays = (out / "arrays" / split).resolve()
    total = Extracted()
    with tqdm(total=len(copies), desc=f"fbank {split}", unit="utt", file=sys.stderr) as progress:
        for part in extract_features(copies, config.features, arrays, map_, dtype, backend):
            total.add(part)
            progress.update(len(part.cuts) + len(part.skipped))
    for name in total.skipped:
        print(f"skipped {name}", file=sys.stderr)
    reasons = dict(name.split(": ", 1) for name in total.skipped)
    refuse_many(reasons, len(reasons) / len(copies), config.data.max_bad_share, split)
    if not total.cuts:
        raise UserError(f"no utterance of {split} gave features ({len(total.skipped)} skipped): see the names above.")
    return total


def extract_features(
    copies: Sequence[tuple[MonoCut, float]],
    config: FeatureConfig,
    arrays: Path,
    map_: Callable[..., Iterable[Extracted]] = map,
    dtype: type[np.floating] = np.float32,
    backend: str = "knf",
) -> Iterator[Extracted]:
    """Compute the features of cuts at speeds, write an array (T, F) each into `arrays`; yield the results part by part.

    Channels are averaged and other rates resampled, as `audio.read_audio` does. Cuts whose audio cannot be read are
    skipped. `map_` is such as `parallel.worker_map` yields, `backend` one of `feature_backends.BACKENDS`.

    Raises:
        OSError: an array cannot be written.
    """
    task = partial(_extract_part, config=config, arrays=arrays, dtype=dtype, backend=backend)
    yield from map_(task, [copies[i : i + CUTS_PER_TASK] for i in range(0, len(copies), CUTS_PER_TASK)])


def _extract_part(
    copies: Sequence[tuple[MonoCut, float]],
    config: FeatureConfig,
    arrays: Path,
    dtype: type[np.floating],
    backend: str,
) -> Extracted:
    extractor, writer, result = get_backend(backend, config), NumpyFilesWriter(str(arrays)), Extracted()
    for original, speed in copies:
        cut = at_speed(original, speed)
        try:
            array = _features(original, speed, cut, extractor)
        except UserError:
            raise
        except Exception as error:  # the audio libraries raise many kinds for a broken file
            reason = " ".join(str(error).split())[:200]
            result.skipped.append(f"{cut.id}: {type(error).__name__}: {reason}")
            continue
        stored = array.astype(dtype)
        key = writer.write(_file_name(cut.id), stored)
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
        exact = array.astype(np.float64)
        squares = np.square(exact).sum(axis=0)
        custom = {**(cut.custom or {}), CHECKSUM: checksum(stored)}
        result.add(
            Extracted([fastcopy(cut, features=manifest, custom=custom)], [], len(array), exact.sum(axis=0), squares)
        )
    return result


def _file_name(name: str) -> str:
    """Return a file name for an utterance's id, which may hold any character; long ones end in a digest."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= MAX_NAME_BYTES else quoted[:100] + hashlib.sha256(name.encode()).hexdigest()[:32]


def _features(cut: MonoCut, speed: float, copy: MonoCut, extractor: KnfFbank) -> np.ndarray:
    """Compute features (T, F) of a cut at a speed, whose `copy` it is; raise ValueError if its audio is unusable."""
    rate = extractor.config.sample_rate_hz
    samples = load_at_speed(copy, speed, rate, original=cut)
    array = extractor.extract(samples, rate)
    if len(array) == 0:
        raise ValueError(f"{len(samples)} samples are too few for a frame")
    if not np.isfinite(array).all():
        raise ValueError("the audio holds values that are not finite")
    return array
