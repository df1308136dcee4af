"""A toy corpus at three speeds, its training batches, and what tests ask of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, MonoCut
from support.toy_training import TEXTS, TOKENIZER, make_cut

from residualformer.config.schema import DataConfig
from residualformer.data.batches import Position, TrainBatches
from residualformer.data.collate import Batch

SPEEDS = [0.9, 1.0, 1.1]
DATA = DataConfig(speeds=SPEEDS, max_batch_s=20.0, num_buckets=4)


def speed_copies(folder: Path) -> list[MonoCut]:
    """Return 20 utterances of 0.5 to 4.3 s at three speeds; the value of the features is the utterance's number."""
    cuts = []
    for i, text in enumerate(TEXTS):
        for speed in SPEEDS:
            name = f"u{i}" + ("" if speed == 1.0 else f"_sp{speed}")
            frames = round((50 + 20 * i) / speed)
            cuts.append(make_cut(folder, name, frames, text, i, utterance=f"u{i}", speed=speed))
    return cuts


def write_speed_copies(folder: Path) -> Path:
    """Write the manifest of `speed_copies`, and return it."""
    CutSet.from_cuts(speed_copies(folder)).to_file(folder / "cuts_train.jsonl.gz")
    return folder / "cuts_train.jsonl.gz"


def train_batches(cuts_path: Path, seed: int = 1, **changes: Any) -> TrainBatches:
    """Return training batches of DATA with `changes`."""
    return TrainBatches(cuts_path, replace(DATA, **changes), TOKENIZER, seed=seed)


def epoch(source: TrainBatches, n: int = 0) -> list[Batch]:
    """Return the batches of an epoch."""
    batches = []
    for update in source.updates(Position(n), 1):
        batches += [batch for _, batch in update.batches]
        if update.end.epoch > n:
            return batches
    raise AssertionError("the updates end")


def same(a: Batch, b: Batch) -> bool:
    """Return whether two batches are equal to the bit."""
    return (
        a.ids == b.ids
        and a.texts == b.texts
        and all(
            torch.equal(getattr(a, name), getattr(b, name))
            for name in ("features", "feature_lens", "tokens", "token_lens")
        )
    )
