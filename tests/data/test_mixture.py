"""Weighted mixtures: how often an utterance of each folder comes, on any number of ranks and after any stop."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from lhotse import CutSet
from support.training_batches import same, speed_copies, train_batches

from residualformer.data import plan
from residualformer.data.batches import Position, TrainBatches
from residualformer.data.shar import write_shar
from residualformer.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """The toy corpus of 20 utterances at three speeds in two halves: shards, and a manifest as stage 2 writes it."""
    place = tmp_path_factory.mktemp("mixture")
    (place / "b").mkdir()
    cuts = speed_copies(place)
    write_shar(cuts[:30], place / "a", 7)
    CutSet.from_cuts(cuts[30:]).to_file(place / "b" / "cuts_train.jsonl.gz")
    return [str(place / "a"), str(place / "b")]


def mixture(folders: list[str], weights: list[float], **changes) -> TrainBatches:
    return train_batches(Path("unused"), shar=folders, weights=weights, **changes)


def counts(source: TrainBatches, epoch: int) -> tuple[Counter[str], Counter[str]]:
    """How often each cut of the two folders is in an epoch."""
    ids = [part.id for (batch,) in source.plan.epoch(epoch) for item in batch for part in item.parts]
    first = {f"u{n}" for n in range(10)}
    halves = [[name for name in ids if (name.split("_")[0] in first) == wanted] for wanted in (True, False)]
    return Counter(halves[0]), Counter(halves[1])


def test_weights_of_one_change_nothing(folders):
    plain, weighted = mixture(folders, [], concat_probability=0.3), mixture(folders, [1, 1], concat_probability=0.3)
    for epoch in range(3):
        assert list(plain.plan.epoch(epoch, 2)) == list(weighted.plan.epoch(epoch, 2))


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.5, 2, 2.3])
def test_utterances_of_a_folder_come_equally_often(folders, weight):
    source = mixture(folders, [weight, 1])
    total: Counter[str] = Counter()
    for epoch in range(8):
        first, second = counts(source, epoch)
        assert len(second) == 30 and set(second.values()) == {1}
        assert set(first.values()) <= {int(weight), -int(-weight // 1)}
        total.update(first)
        # after n epochs each has come as often as n times the weight, rounded up or down
        assert {abs(total[f"u{n}"] - weight * (epoch + 1)) < 1 for n in range(10)} == {True}
    assert len(total) == 30 and abs(sum(total.values()) / (8 * 30) - weight) < 1 / 8


def test_the_draw_changes_with_the_epoch_and_the_seed(folders):
    halves = [set(counts(mixture(folders, [0.5, 1], seed=seed), n)[0]) for seed, n in ((1, 0), (1, 1), (2, 0))]
    assert halves[0] and not halves[0] & halves[1] and halves[0] != halves[2]


def test_copies_in_an_epoch_have_speeds_of_their_own(folders):
    source = mixture(folders, [3, 1], speed_choice="random")
    epochs = [counts(source, n) for n in range(4)]
    for first, second in epochs:
        assert Counter(name.split("_")[0] for name in first.elements()) == {f"u{n}": 3 for n in range(10)}
        assert second.total() == 10
    assert any(count < 3 for first, _ in epochs for count in first.values())


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_one(folders, world):
    options = {"concat_probability": 0.3}
    alone = mixture(folders, [1.5, 0.5], **options).plans(Position(), 3)
    ranks = [mixture(folders, [1.5, 0.5], **options).plans(Position(), 3, rank, world) for rank in range(world)]
    for whole, *parts in islice(zip(alone, *ranks), 20):
        assert sorted((each for part in parts for each in part.batches), key=lambda each: each[0]) == whole.batches
        assert {part.end for part in parts} == {whole.end}


def test_training_goes_on_within_an_epoch_exactly(folders):
    options = {"concat_probability": 0.5, "pad_start_ms": 200}
    whole = list(islice(mixture(folders, [2.5, 0.5], **options).updates(Position(), 2), 16))
    assert whole[-1].end.epoch >= 1
    for n in range(15):
        resumed = next(mixture(folders, [2.5, 0.5], **options).updates(whole[n].end, 2))
        assert resumed.end == whole[n + 1].end
        assert all(same(a, b) for (_, a), (_, b) in zip(resumed.batches, whole[n + 1].batches, strict=True))


def test_each_folder_is_told_with_its_weight(folders):
    told = mixture(folders, [2, 0.5]).describe()
    assert told.startswith("2 times 10 corpus utterances (0.00 h), 0.5 times ") and "b/cuts_train" in told
    assert mixture(folders, [2, 0.5], share=0.25).describe() == f"a share of 0.25 of {told}"


def test_what_cannot_be_used_is_counted_once(folders, caplog, monkeypatch):
    monkeypatch.setattr(plan, "FIRST", 10)  # so that the epoch is what counts
    source = mixture(folders, [3, 1], max_utterance_s=2.0)
    list(source.plan.epoch(0))
    assert caplog.text.count("left out of training") == 1
    assert f"{len(source.skipped)} of 60 utterances left out" in caplog.text


def test_an_epoch_without_utterances_is_told(folders):
    with pytest.raises(UserError, match="data.share or data.weights leave none for this epoch: give more"):
        list(mixture(folders, [0.001, 0.001]).plan.epoch(0))
