"""Training features in shards: Lhotse Shar, folders of `cuts.<n>.jsonl.gz` and `features.<n>.tar`.

Lhotse reads a shard from its start to its end, which needs the features of all buffered cuts in memory and gives each
worker shards of its own. Here the cuts alone are read in order, and a worker reads the features that it needs where
they are in the archive: so the batches depend neither on the number of workers nor on that of ranks.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lhotse import MonoCut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.shar.writers import ArrayTarWriter, JsonlShardWriter
from lhotse.utils import fastcopy

from residualformer.data.arrays import CHECKSUM, checksum, load_features
from residualformer.data.summary import stated_shards, write_summary
from residualformer.errors import UserError

ARRAY_SUFFIX = ".npy"  # of the members with features; those with their description end in .json
AUDIO_START = "audio_start"  # the key in `custom` of where a cut, which starts at 0 in Shar, starts in its recording
OPEN_ARCHIVES = 128  # whose contents are remembered, about 0.3 KB for each cut


class Shard(NamedTuple):
    """A part of a training set."""

    cuts: Path  # JSONL
    archive: Path | None = None  # of the features of these cuts, in order; None where each cut names a file


def find_shards(source: Path) -> list[Shard]:
    """Return the shards in a folder of Lhotse Shar, in order; a file is a manifest, and the only shard.

    Raises:
        UserError: a shard is missing, or its archive is.
    """
    if not source.is_dir():
        return [Shard(source)]
    names = {path.name for path in source.iterdir()}
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"(?:cuts|features)\.(\d{6,})\..+", name))]
    if not numbers:
        raise UserError(
            f"{source} is no folder of Lhotse Shar, such as stage 2 writes with data.shard_size: it has no shard."
        )
    count = max(max(numbers) + 1, stated_shards(source))
    some = range(min(count, len(names) + 1))  # a damaged name or summary may state any number; a gap is among these
    expected = [(f"cuts.{n:06d}.jsonl.gz", f"features.{n:06d}.tar") for n in some]
    if missing := [name for pair in expected for name in pair if name not in names]:
        more = " and more files" if len(missing) > 3 else ""
        raise UserError(f"{source} lacks {', '.join(missing[:3])}{more}: copy them again, or run stage 2 again.")
    return [Shard(source / cuts, source / archive) for cuts, archive in expected]


def write_shar(cuts: Iterable[MonoCut], folder: Path, size: int) -> None:
    """Write cuts and their features into `folder` as Lhotse Shar, `size` cuts in a shard, in random order.

    A training shuffles shards and, within a buffer, cuts; a random order makes up for the bound of that buffer.
    """
    shuffled = list(cuts)
    random.Random(0).shuffle(shuffled)
    temporary = folder.with_name(f".{os.getpid()}.{folder.name}")
    temporary.mkdir(parents=True)
    pattern = str(temporary).replace("%", "%%")
    with (
        JsonlShardWriter(f"{pattern}/cuts.%06d.jsonl.gz", shard_size=size) as manifest,
        ArrayTarWriter(f"{pattern}/features.%06d.tar", shard_size=size, compression="numpy") as archive,
    ):
        for cut in shuffled:
            array, features = load_features(cut), to_shar_placeholder(cut.features, cut)
            custom = {**(cut.custom or {}), CHECKSUM: checksum(array), AUDIO_START: cut.start}
            archive.write(cut.id, array, features)
            manifest.write(fastcopy(cut, start=0.0, features=features, custom=custom))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    write_summary(shuffled, folder, shards=-(-len(shuffled) // size))


def read_member(archive: str, name: str) -> bytes:
    """Read a file in an uncompressed archive; OSError, KeyError or tarfile.TarError if it is missing or damaged."""
    start, size = _members(archive)[name]
    with open(archive, "rb") as file:
        file.seek(start)
        return file.read(size)


@lru_cache(maxsize=OPEN_ARCHIVES)
def _members(archive: str) -> dict[str, tuple[int, int]]:
    """Return where each array in an archive begins, and its length, in bytes."""
    with tarfile.open(archive, "r:") as tar:
        return {each.name: (each.offset_data, each.size) for each in tar if each.name.endswith(ARRAY_SUFFIX)}
