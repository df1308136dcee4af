"""What decides a training, and what does not."""

from __future__ import annotations

import dataclasses

from residualformer.config.loading import flat
from residualformer.config.schema import Config
from residualformer.model.identity import (
    NOT_DECISIVE,
    changes,
    decisive_values,
    is_same_training,
    section_values,
    training_identity,
)


def test_every_section_decides_but_those_that_are_named():
    sections = {field.name for field in dataclasses.fields(Config)}
    assert {key.partition(".")[0] for key in decisive_values(Config())} == sections - set(NOT_DECISIVE)
    assert set(NOT_DECISIVE) < sections


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
    assert is_same_training(held, training_identity(Config(), "t", "w"))
    assert not is_same_training(None, held)
    others = [("u", "w", None, None), ("t", "x", None, None), ("t", "w", "teacher", None), ("t", "w", None, 0.5)]
    assert not any(is_same_training(held, training_identity(Config(), *other)) for other in others)
