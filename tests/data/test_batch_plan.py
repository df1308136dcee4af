"""The plan of an epoch: lazy, bounded, every utterance once, shuffled by the seed, whatever the ranks."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from support.toy_training import TOKENIZER
from support.training_batches import DATA, SPEEDS, train_batches

from residualformer.config.schema import DataConfig
from residualformer.data import plan
from residualformer.data.batches import Position
from residualformer.data.plan import Plan, shuffled
from residualformer.errors import UserError

COUNT = 3000


@pytest.fixture(scope="module")
def long_manifest(tmp_path_factory) -> Path:
    """A manifest of 3,000 utterances at three speeds, without arrays."""
    path = tmp_path_factory.mktemp("long") / "cuts_train.jsonl"
    features = {
        "num_frames": 1,
        "num_features": 4,
        "storage_type": "numpy_files",
        "storage_path": "",
        "storage_key": "",
    }
    rng = random.Random(0)
    with open(path, "w") as file:
        for i in range(COUNT):
            recorded = rng.uniform(0.5, 9.5)
            for speed in SPEEDS:
                cut = {
                    "id": f"u{i}_{speed}",
                    "duration": recorded / speed,
                    "features": features,
                    "supervisions": [{"text": "GO ONE"}],
                    "custom": {"utterance": f"u{i}", "speed": speed},
                }
                file.write(json.dumps(cut) + "\n")
    return path


def make_plan(path: Path, data: DataConfig = DATA, seed: int = 1) -> Plan:
    return Plan([path], data, TOKENIZER, seed=seed)


def ids(source: Plan, epoch: int = 0) -> Iterator[str]:
    return (part.id for (items,) in source.epoch(epoch) for item in items for part in item.parts)


def test_a_share_of_the_utterances_is_the_same_at_all_speeds_and_in_all_epochs_and_part_of_a_larger_one(long_manifest):
    used = []
    for share in (0.1, 0.5, 1.0):
        source = make_plan(long_manifest, replace(DATA, share=share))
        copies = set(ids(source))
        assert set(ids(source, epoch=1)) == copies and not source.skipped
        used.append({name.split("_")[0] for name in copies})
        assert copies == {f"{name}_{speed}" for name in used[-1] for speed in SPEEDS}
    assert used[0] < used[1] < used[2] and len(used[2]) == COUNT
    assert abs(len(used[0]) - 300) < 70 and abs(len(used[1]) - 1500) < 110  # four standard deviations
    assert set(ids(make_plan(long_manifest, replace(DATA, share=0.1), seed=2))) != set(
        ids(make_plan(long_manifest, replace(DATA, share=0.1)))
    )


def test_no_more_cuts_are_read_ahead_than_the_buffers_hold(long_manifest, monkeypatch):
    monkeypatch.setattr(plan, "FIRST", 50)
    monkeypatch.setattr(plan, "BUCKET_BUFFER", 100)
    monkeypatch.setattr(plan, "BATCH_BUFFER", 5)
    read = 0

    def counted(*args):
        nonlocal read
        for utterance in original(*args):
            read += 1
            yield utterance

    original = plan.read_utterances
    monkeypatch.setattr(plan, "read_utterances", counted)
    source = make_plan(long_manifest, replace(DATA, shuffle_buffer=200))
    assert read == 50
    read = used = largest = 0
    names = Counter()
    for (items,) in source.epoch(0):
        used += len(items)
        largest = max(largest, len(items))
        names.update(part.id for item in items for part in item.parts)
        # 6 batches: the 5 in the buffer and this one; what a sampler takes out of its buckets it fills up again
        assert read - used <= 200 + 100 + 6 * largest + 2
    assert len(names) == 3 * COUNT and set(names.values()) == {1}


def test_the_order_is_decided_by_the_seed_and_changes_with_the_epoch(long_manifest):
    data = replace(DATA, speeds=[1.0], shuffle_buffer=500)
    first = list(ids(make_plan(long_manifest, data)))
    assert first == list(ids(make_plan(long_manifest, data)))
    for other in (
        list(ids(make_plan(long_manifest, data), epoch=1)),
        list(ids(make_plan(long_manifest, data, seed=2))),
    ):
        assert other != first and sorted(other) == sorted(first)


def test_a_small_set_is_shuffled_uniformly_and_a_large_one_within_the_buffer():
    counts = Counter(
        (item, place) for n in range(3000) for place, item in enumerate(shuffled(range(4), 4, random.Random(n)))
    )
    # Each of 4 items is at each of 4 places 750 times; the standard deviation is 24.
    assert len(counts) == 16 and all(abs(count - 750) < 5 * 24 for count in counts.values())
    order = list(shuffled(range(1000), 100, random.Random(1)))
    assert sorted(order) == list(range(1000)) and all(item < place + 100 for place, item in enumerate(order))


def test_a_random_speed_is_drawn_for_each_utterance_and_epoch(long_manifest):
    source = make_plan(long_manifest, replace(DATA, speed_choice="random"))
    epochs = [dict(name.split("_") for name in ids(source, n)) for n in range(2)]
    for chosen in epochs:
        assert len(chosen) == COUNT  # each utterance once
        counts = Counter(chosen.values())
        # a third of 3,000; the standard deviation is 26
        assert len(counts) == 3 and all(abs(count - 1000) < 5 * 26 for count in counts.values())
    same = sum(epochs[0][name] == epochs[1][name] for name in epochs[0])
    assert abs(same - 1000) < 5 * 26  # the draws of two epochs are independent


def test_of_speeds_those_are_drawn_that_fit(long_manifest):
    data = replace(DATA, speed_choice="random", min_utterance_s=1.0, max_utterance_s=9.0)
    usable = set(ids(make_plan(long_manifest, replace(data, speed_choice="all"))))
    chosen = list(ids(make_plan(long_manifest, data)))
    assert set(chosen) <= usable
    assert Counter(name.split("_")[0] for name in chosen) == Counter({name.split("_")[0] for name in usable})


@pytest.mark.parametrize("per_update", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_see_every_utterance_once_an_epoch(cuts_path, world, per_update):
    counts: Counter[str] = Counter()
    total = len(list(train_batches(cuts_path).plan.epoch(0)))
    numbers = []
    walks = [train_batches(cuts_path).plans(Position(), per_update, rank, world) for rank in range(world)]
    for updates in islice(zip(*walks), -(-total // per_update)):
        assert len({update.position for update in updates}) == len({update.end for update in updates}) == 1
        batches = sorted((each for update in updates for each in update.batches), key=lambda each: each[0])
        numbers.append([number for number, _ in batches])
        counts.update(part.id for _, items in batches for item in items for part in item.parts)
    assert updates[0].end == (1, 0)
    assert sorted(numbers, key=len, reverse=True)[:-1] == [list(range(per_update))] * (len(numbers) - 1)
    assert sum(map(len, numbers)) == total and len(counts) == 60 and set(counts.values()) == {1}


def test_the_batches_of_an_update_have_neighboring_durations_whatever_the_buffer(monkeypatch):
    batches = [[plan.Item((), duration)] for duration in random.Random(0).sample(range(96), 96)]

    def durations():
        updates = plan.drawn_updates(batches, 4, random.Random(1))
        return [[item.duration for (item,) in update] for update in updates]

    drawn = durations()
    assert sorted(drawn) == [list(range(start, start + 4)) for start in range(0, 96, 4)] != drawn
    for size in (16, 18):  # of which the second would hold half an update
        monkeypatch.setattr(plan, "BATCH_BUFFER", size)
        drawn = durations()
        assert sorted(sum(drawn, [])) == list(range(96)) and [len(each) for each in drawn] == [4] * 24


def test_an_epoch_without_a_usable_utterance_is_told(long_manifest):
    with pytest.raises(UserError, match="none of its utterances can be trained on .*lasts"):
        make_plan(long_manifest, replace(DATA, max_utterance_s=0.2))
