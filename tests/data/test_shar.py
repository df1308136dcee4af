"""Lhotse Shar: the utterances and features of the plain path, in Lhotse's format; damage is told in a sentence."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from support.toy_training import TOKENIZER
from support.training_batches import DATA, epoch, same, speed_copies, train_batches

from residualformer.data import shar
from residualformer.data.batches import Position, TrainBatches, Update
from residualformer.data.plan import Plan
from residualformer.data.shar import find_shards, write_shar
from residualformer.errors import UserError


@pytest.fixture()
def folder(tmp_path) -> Path:
    """The toy corpus of 60 cuts in 9 shards."""
    write_shar(speed_copies(tmp_path / "plain"), tmp_path / "shar %d", 7)
    return tmp_path / "shar %d"


def features_of(source: TrainBatches) -> dict[str, np.ndarray]:
    return {
        name: batch.features[row, : int(batch.feature_lens[row])].numpy()
        for batch in epoch(source)
        for row, name in enumerate(batch.ids)
    }


def test_shards_hold_what_the_manifest_holds_to_the_bit(folder, cuts_path):
    assert len(find_shards(folder)) == 9
    plain, sharded = features_of(train_batches(cuts_path)), features_of(train_batches(folder))
    assert plain.keys() == sharded.keys() and len(plain) == 60
    assert all(np.array_equal(plain[name], sharded[name]) for name in plain)
    assert train_batches(folder).describe() == "20 corpus utterances (0.01 h), at speeds [0.9, 1.0, 1.1]"


def test_lhotse_reads_them(folder):
    cuts = {cut.id: cut.features.load() for cut in CutSet.from_shar(in_dir=folder)}
    own = {u.id: u.load() for (batch,) in train_batches(folder).plan.epoch(0) for item in batch for u in item.parts}
    assert cuts.keys() == own.keys() and all(np.array_equal(cuts[name], own[name]) for name in cuts)


def test_each_epoch_takes_the_shards_in_another_order(folder):
    def shards(n: int) -> list[str]:
        source = Plan([folder], replace(DATA, shuffle_buffer=1), TOKENIZER)
        return [part.file for (items,) in source.epoch(n) for item in items for part in item.parts]

    assert shards(0) == shards(0) and shards(0) != shards(1)
    assert Counter(shards(0)) == Counter(shards(1))


def test_training_goes_on_within_an_epoch_exactly(folder):
    source = train_batches(folder, concat_probability=0.5, pad_start_ms=200)
    whole = list(islice(source.updates(Position(), 2), 12))
    for n in range(11):
        resumed = next(train_batches(folder, concat_probability=0.5, pad_start_ms=200).updates(whole[n].end, 2))
        assert resumed.end == whole[n + 1].end
        assert all(same(a, b) for (_, a), (_, b) in zip(resumed.batches, whole[n + 1].batches))


def test_several_folders_are_one_set(folder, tmp_path):
    cuts = speed_copies(tmp_path / "again")
    for part, chosen in enumerate((cuts[:24], cuts[24:])):
        write_shar(chosen, tmp_path / f"part{part}", 7)
    source = train_batches(folder / "unused", shar=[str(tmp_path / "part0"), str(tmp_path / "part1")])
    assert features_of(source).keys() == features_of(train_batches(folder)).keys()
    assert source.describe() == "20 corpus utterances (0.01 h), at speeds [0.9, 1.0, 1.1]"


def test_a_missing_folder_is_named(folder, tmp_path):
    write_shar(speed_copies(tmp_path / "again"), tmp_path / "part0", 7)
    named = [str(tmp_path / "part0"), str(tmp_path / "part1")]
    with pytest.raises(UserError, match=f"^data.shar names {named[1]}, but there is no such folder"):
        train_batches(folder, shar=named)


def test_missing_and_damaged_shards_are_named(folder, tmp_path):
    def broken(name: str, change) -> TrainBatches:
        copy = tmp_path / f"copy of {name}"
        shutil.copytree(folder, copy)
        shutil.copy(folder.with_name(f"{folder.name}.json"), copy.with_name(f"{copy.name}.json"))
        change(copy / name)
        return train_batches(copy)

    for name in ("features.000003.tar", "cuts.000005.jsonl.gz", "features.000008.tar"):
        with pytest.raises(UserError, match=f"lacks {name}: copy them again"):
            broken(name, Path.unlink)
    (folder / "cuts.000008.jsonl.gz").unlink()
    (folder / "features.000008.tar").unlink()
    with pytest.raises(UserError, match=r"lacks cuts.000008.jsonl.gz, features.000008.tar: copy"):
        train_batches(folder)
    write_shar(speed_copies(tmp_path / "plain"), folder, 7)
    with pytest.raises(UserError, match=r"cuts.000002.jsonl.gz is not a manifest of cuts .*run stage 2 again"):
        epoch(broken("cuts.000002.jsonl.gz", lambda path: path.write_bytes(path.read_bytes()[:-20])))
    for number, change in enumerate((truncate, flip_a_bit, empty)):
        name = f"features.00000{number}.tar"
        left_out = dict(chain.from_iterable(update.bad.items() for update in one_epoch(broken(name, change))))
        assert left_out  # and nothing of another shard
        for utterance, reason in left_out.items():
            assert re.search(rf"the features of {utterance} in .*{name} cannot be read .*run stage 2 again", reason)
    with pytest.raises(UserError, match="is no folder of Lhotse Shar"):
        train_batches(tmp_path)


def one_epoch(source: TrainBatches) -> Iterator[Update]:
    return islice(source.updates(Position(), 1), sum(1 for _ in source.plan.epoch(0)))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1  # in the first array: header of the archive 512, of the array 128
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(autouse=True)
def _forget_archives() -> None:
    shar._members.cache_clear()
