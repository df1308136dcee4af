"""Names of the parts of a corpus: train, dev, a test set or one of its subsets, and the files that hold their cuts.

Stage 1 writes `cuts_<split>.jsonl.gz` into a folder of manifests, stage 2 beside the features. The split `<set>@<part>`
is a subset of the test set `<set>`. Training may read a folder of Lhotse Shar instead of a manifest.
"""

from __future__ import annotations

from pathlib import Path

SHARDS = "shar_train"  # folder of the training set's shards, if stage 2 made some
_PREFIX, _SUFFIX = "cuts_", ".jsonl.gz"


def cuts_file(folder: Path, split: str) -> Path:
    """Return the path of the cuts of `split` in `folder`."""
    return folder / f"{_PREFIX}{split}{_SUFFIX}"


def cuts_files(folder: Path) -> dict[str, Path]:
    """Return the files of cuts in `folder` by split, in alphabetical order of the splits."""
    files = {split_of(path): path for path in folder.glob(f"{_PREFIX}?*{_SUFFIX}")}
    return dict(sorted(files.items()))


def train_source(folder: Path) -> Path:
    """Return what stage 2 wrote for training: a folder of Lhotse Shar, or a manifest."""
    shards = folder / SHARDS
    return shards if shards.is_dir() else cuts_file(folder, "train")


def mixed_source(folder: Path) -> Path:
    """Return what to read of a folder of `data.shar`: what stage 2 wrote there, or the folder, if it is Shar itself."""
    source = train_source(folder)
    return source if source.exists() else folder


def summary_file(source: Path) -> Path:
    """Return the file beside a manifest or a folder of Lhotse Shar that says how much speech it holds."""
    return source.with_name(f"{source.name.removesuffix(_SUFFIX)}.json")


def split_of(cuts: Path) -> str:
    """Return the split whose cuts a file holds, from its name; other suffixes than stage 1's are taken off as well."""
    name = cuts.name.removeprefix(_PREFIX)
    return name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else name.partition(".")[0]


def set_of(split: str) -> str:
    """Return the test set that `split` is, or is a subset of."""
    return split.partition("@")[0]
