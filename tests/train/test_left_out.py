"""Features that cannot be read are left out of a training and named; too many of them end it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_training import CONFIG, changed, make_trainer, stop_at, write_toy_cuts

from residualformer.errors import UserError
from residualformer.train import left_out
from residualformer.train.ranks import Ranks


@pytest.fixture
def cuts(tmp_path):
    """Toy cuts of this test alone, the training's and the dev set's of their own."""
    (tmp_path / "train").mkdir()
    (tmp_path / "dev").mkdir()
    return {name: write_toy_cuts(tmp_path / name)[name] for name in ("train", "dev")}


def damage(cuts: dict[str, Path], count: int) -> None:
    """Remove, cut off or change the features of the first utterances in the training set."""
    arrays = sorted((cuts["train"].parent / "arrays").rglob("*.npy"))
    for n, path in enumerate(arrays[:count]):
        content = path.read_bytes()
        path.unlink() if n % 3 == 0 else path.write_bytes(content[:-9] if n % 3 == 1 else content[:9])


def test_what_cannot_be_read_is_left_out_counted_and_named(cuts, tmp_path, caplog):
    damage(cuts, 3)
    trainer = make_trainer(cuts, tmp_path / "run", changed("train", log_every_steps=3))
    with caplog.at_level("WARNING"):
        info = trainer.run()
    assert info["steps"] == 6 and 0 < len(trainer.left_out.counts["reasons"]) <= 3
    assert 0 < trainer.left_out.counts["times"] < trainer.left_out.counts["asked"]
    for name in trainer.left_out.counts["reasons"]:
        assert caplog.text.count(f"left out of training: {name}: the features of ") == 1


def test_noise_that_cannot_be_read_is_named_once_and_counts_for_nothing(caplog):
    counted = left_out.LeftOut(0.01, Ranks())
    with caplog.at_level("WARNING"):
        for _ in range(2):
            counted.add({}, 5, {"a.wav": "too short", "b.wav": "gone"})
    counted.tell()
    assert caplog.messages == ["noise skipped: a.wav: too short", "noise skipped: b.wav: gone"]
    assert counted.counts == {"reasons": {}, "times": 0, "asked": 10}


def test_a_batch_of_which_nothing_is_left_is_no_batch(cuts, tmp_path, monkeypatch):
    monkeypatch.setattr(left_out, "refuse_many", lambda *_: None)
    damage(cuts, 20)
    trainer = make_trainer(cuts, tmp_path / "run")
    before = trainer._weights()["joiner.vocabulary.weight"].clone()
    trainer.run()
    assert len(trainer.left_out.counts["reasons"]) > 10 and trainer._weights()["joiner.vocabulary.weight"].equal(before)


def test_too_many_end_the_training_with_the_report(cuts, tmp_path):
    damage(cuts, 15)
    with pytest.raises(UserError, match="the training set cannot be used, .* data.max_bad_share allows 1"):
        make_trainer(cuts, tmp_path / "run", CONFIG).run()


def test_what_was_left_out_before_a_stop_still_counts(cuts, tmp_path):
    damage(cuts, 3)
    config, folder = changed("train", log_every_steps=3, save_every_steps=3), tmp_path / "run"
    whole = make_trainer(cuts, tmp_path / "whole", config)
    whole.run()
    stopped = make_trainer(cuts, folder, config)
    stop_at(stopped, 3)
    going_on = make_trainer(cuts, folder, config)
    assert going_on.resume()
    info = going_on.run()
    assert going_on.left_out.counts == whole.left_out.counts and info["left_out"]["utterances"] > 0
