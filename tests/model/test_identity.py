"""What decides a training, and what does not."""

from __future__ import annotations

import dataclasses

import pytest

from residualformer.config.loading import flat
from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.model.identity import (
    NOT_DECISIVE,
    Change,
    changes,
    decisive_values,
    refuse_changes,
    section_values,
    training_changes,
    training_identity,
)


def test_every_section_decides_but_those_that_are_named():
    sections = {field.name for field in dataclasses.fields(Config)}
    assert {key.partition(".")[0] for key in decisive_values(Config())} == sections - set(NOT_DECISIVE)
    assert set(NOT_DECISIVE) < sections | set(flat(Config()))


def test_sections_and_single_keys_are_taken_whole():
    values = section_values(Config(), ["tokens", "data.speeds"])
    assert set(values) == {"data.speeds", *(key for key in flat(Config()) if key.startswith("tokens."))}
    assert section_values(Config(), ["data.speed"]) == {}  # no key, but the start of one


def test_a_key_that_an_older_run_lacks_had_its_default():
    new = decisive_values(Config())
    old = {key: value for key, value in new.items() if key != "train.seed"}
    assert changes(old, new) == []
    (change,) = changes(old, new | {"train.seed": 7})
    assert change == ("train.seed", Config().train.seed, 7)


def test_tokens_start_teacher_and_share_decide_as_well():
    held = training_identity(Config(), "t", "w")
    assert training_changes(held, training_identity(Config(), "t", "w")) == []
    assert {"run tokens", "run warm_start"} <= {change.name for change in training_changes({}, held)}
    others = [("u", "w", None, None), ("t", "x", None, None), ("t", "w", "teacher", None), ("t", "w", None, 0.5)]
    others.append(("t", "w", None, None, "distill"))
    assert all(training_changes(held, training_identity(Config(), *other)) for other in others)


def test_a_training_goes_on_with_changes_that_leave_its_weights_as_they_are():
    wanted = [Change("train.max_steps", 6, 9), Change("data.max_batch_s", 50.0, 60.0), Change("encoder.dropout", 0, 1)]
    refused = [
        Change(name, 1, 2) for name in ("encoder.num_layers", "run tokens", "train.optimizer.kind", "warm_start")
    ]
    assert [each.may_be_wanted for each in wanted + refused] == [True] * 3 + [False] * 4
    assert [each.moves_updates for each in wanted] == [False, True, False]
    assert all(Change(f"train.{key}", 1, 2).moves_updates for key in ("seed", "batches_per_update"))
    assert not Change("data.specaugment.start_step", 1, 2).moves_updates
    refuse_changes("x", wanted, "go-on")
    refuse_changes("x", wanted + refused, "aside")
    with pytest.raises(UserError, match="^x cannot go on with encoder.num_layers 1 -> 2; run tokens 1 -> 2; train.opt"):
        refuse_changes("x", wanted + refused, "go-on")
    with pytest.raises(UserError, match="train.max_steps 6 -> 9; .*--if-changed go-on .*--if-changed aside moves it"):
        refuse_changes("x", wanted, "refuse")
    refuse_changes("x", [], "refuse")
