"""Damaged checkpoints and models, and changes on purpose: the same bits, or a sentence and a record."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.toy_training import CONFIG, changed, make_trainer, stop_at

from residualformer.config.loading import config_to_dict
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.model.identity import training_changes
from residualformer.train import setup

MODEL = "model.safetensors"
LONGER = changed("train", max_steps=8)


@pytest.fixture(scope="module")
def straight(toy_cuts, tmp_path_factory) -> str:
    """The fingerprint of the toy training without any trouble."""
    return make_trainer(toy_cuts, tmp_path_factory.mktemp("straight")).run()["fingerprint"]


def flip_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["flipped", "missing", "cut off"])
def test_the_state_before_a_damaged_one_leads_to_the_same_bits(toy_cuts, tmp_path, straight, caplog, what):
    stop_at(make_trainer(toy_cuts, tmp_path), 5)
    states = sorted((tmp_path / "checkpoints").glob("state-*"))
    assert [path.stem for path in states] == ["state-4", "state-5"]
    if what == "missing":
        states[1].unlink()
    elif what == "flipped":
        flip_bit(states[1])
    else:
        states[1].write_bytes(states[1].read_bytes()[:1000])
    trainer = make_trainer(toy_cuts, tmp_path)
    with caplog.at_level("WARNING"):
        assert trainer.resume() and trainer.step == 4
    assert what == "missing" or "state-5.safetensors is no file of this toolkit, or is damaged" in caplog.text
    assert trainer.run()["fingerprint"] == straight


def test_where_every_state_is_damaged_nothing_is_trained_over_them(toy_cuts, tmp_path):
    stop_at(make_trainer(toy_cuts, tmp_path), 5)
    for path in (tmp_path / "checkpoints").glob("state-*"):
        flip_bit(path)
    with pytest.raises(UserError, match="no state in .*checkpoints can be read; remove this folder to train from"):
        make_trainer(toy_cuts, tmp_path).resume()


def test_damaged_weights_are_taken_from_their_state_or_named(toy_cuts, tmp_path, straight, caplog):
    make_trainer(toy_cuts, tmp_path).run()
    folder = tmp_path / "checkpoints"
    for path in (folder / "step-4.safetensors", folder / "step-6.safetensors"):
        flip_bit(path)
        trainer = make_trainer(toy_cuts, tmp_path)
        assert trainer.resume()
        with caplog.at_level("WARNING"):
            assert trainer.run()["fingerprint"] == straight
        assert f"the same weights are in {folder / path.name.replace('step', 'state')}" in caplog.text
    (folder / "state-4.safetensors").unlink()
    trainer = make_trainer(toy_cuts, tmp_path)
    trainer.resume()
    with pytest.raises(UserError, match="step-4.safetensors is no file .*remove .*checkpoints to train from the start"):
        trainer.run()


def test_a_damaged_model_is_made_anew_of_its_checkpoints(toy_cuts, tmp_path, straight, capsys):
    trainer = make_trainer(toy_cuts, tmp_path)
    trainer.run()
    assert setup.prepare_folder(tmp_path, trainer.identity) is None  # finished
    flip_bit(tmp_path / MODEL)
    assert setup.prepare_folder(tmp_path, trainer.identity).changes == []
    again = make_trainer(toy_cuts, tmp_path)
    again.resume()
    assert again.run()["fingerprint"] == straight == checkpoint.read_model(tmp_path / MODEL).info["fingerprint"]
    flip_bit(tmp_path / MODEL)
    for path in (tmp_path / "checkpoints").glob("state-*"):
        path.unlink()
    with pytest.raises(UserError, match="model.safetensors is no file of this toolkit, or is damaged"):
        setup.prepare_folder(tmp_path, trainer.identity)


def identity_of(config) -> dict:
    return {"config": config_to_dict(config)}


def test_another_configuration_is_refused_moved_or_gone_on_with(toy_cuts, tmp_path):
    run = tmp_path / "run"
    make_trainer(toy_cuts, run).run()
    wanted, impossible = identity_of(LONGER), identity_of(changed("encoder", LONGER, ffn_dim=24))
    with pytest.raises(UserError, match="run is of another configuration .train.max_steps 6 -> 8.: --if-changed go-on"):
        setup.prepare_folder(run, wanted)
    with pytest.raises(UserError, match="run cannot go on with encoder.ffn_dim 32 -> 24: move it away"):
        setup.prepare_folder(run, impossible, "go-on")
    assert (run / MODEL).is_file()
    changes = setup.prepare_folder(run, wanted, "go-on").changes
    assert changes == training_changes(identity_of(CONFIG), wanted)
    assert (run / f"former.{MODEL}.1").is_file() and not (run / MODEL).exists()
    assert setup.prepare_folder(run, impossible, "aside") == ([], None) and not list(run.iterdir())
    assert (tmp_path / "old" / "run.1" / f"former.{MODEL}.1").is_file()


def test_a_change_on_purpose_takes_effect_and_is_recorded(toy_cuts, tmp_path, caplog):
    optimizer = dataclasses.replace(CONFIG.train.optimizer, lr=1e-3, muon_lr=1e-3)
    config = changed("train", LONGER, optimizer=optimizer)
    changes = training_changes(identity_of(CONFIG), identity_of(config))
    stop_at(make_trainer(toy_cuts, tmp_path), 3)
    before = make_trainer(toy_cuts, tmp_path)
    assert before.resume()
    trainer = make_trainer(toy_cuts, tmp_path, config)
    with pytest.raises(UserError, match="another configuration"):
        trainer.resume()
    with caplog.at_level("INFO"):
        assert trainer.resume(changes)
    assert trainer.step == 3 and "from step 3 on: train.optimizer.lr 0.003 -> 0.001" in caplog.text
    factor = trainer.optimizer.factor(3)
    assert trainer.optimizer.lr == 1e-3 * factor != before.optimizer.lr
    again = make_trainer(toy_cuts, tmp_path, config)  # after a kill: the change is made
    assert again.resume() and again.changes == trainer.changes
    info = trainer.run()
    assert info["steps"] == 8 and {"step": 3, "name": "train.max_steps", "from": 6, "to": 8} in info["changes"]
    assert checkpoint.read_model(tmp_path / MODEL).info["changes"] == info["changes"]
    assert again.run()["fingerprint"] == info["fingerprint"]


def test_where_the_batches_change_a_new_epoch_begins(toy_cuts, tmp_path):
    small = changed("data", max_batch_s=3.0)
    stop_at(make_trainer(toy_cuts, tmp_path, small), 3)
    before, trainer = make_trainer(toy_cuts, tmp_path, small), make_trainer(toy_cuts, tmp_path)
    assert before.resume() and before.position == (0, 3)
    trainer.resume(training_changes(identity_of(small), identity_of(CONFIG)))
    assert trainer.position == (1, 0)


def test_a_training_cannot_end_before_it_began(toy_cuts, tmp_path):
    stop_at(make_trainer(toy_cuts, tmp_path), 3)
    config = changed("train", max_steps=2)
    with pytest.raises(UserError, match="train.max_steps is 2, but .*checkpoints is at step 3"):
        make_trainer(toy_cuts, tmp_path, config).resume(training_changes(identity_of(CONFIG), identity_of(config)))
