"""The trainer: resuming, averaging, warm start, what it refuses; and the objective against the exact loss."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal

import pytest
import torch
from support.toy_training import CONFIG, TOKENIZER, changed, make_trainer, one_batch, stop_at

from residualformer.config.schema import (
    ResidualConfig,
)  # fmt: skip
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.loss.objective import TransducerObjective
from residualformer.model import checkpoint
from residualformer.model.tensors import read_tensors
from residualformer.nn.transducer import build_model
from residualformer.train import loop, validation
from residualformer.train.signals import Interrupted
from residualformer.train.warm_start import warm_start

STATES, AVERAGED = ([f"{name}-{step}.safetensors" for step in (4, 6)] for name in ("state", "step"))  # of the toys


def batch_losses(model, batch, config):
    return TransducerObjective(config).from_features(model, batch.features, batch.feature_lens, batch)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_with_the_same_bits(toy_cuts, tmp_path, dropout):
    config = changed("predictor", changed("encoder", dropout=dropout), dropout=dropout, token_dropout=dropout)
    info = make_trainer(toy_cuts, tmp_path / "straight", config).run()
    first = make_trainer(toy_cuts, tmp_path / "broken", config)
    stop_at(first, 3)
    second = make_trainer(toy_cuts, tmp_path / "broken", config)
    assert second.resume() and second.step == 3
    second.run()
    straight, broken = (checkpoint.read_model(tmp_path / name / "model.safetensors") for name in ("straight", "broken"))
    assert straight.info["fingerprint"] == broken.info["fingerprint"] == info["fingerprint"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 6]  # three training records and the last validation, none twice


def test_model_is_the_mean_of_the_last_checkpoints_and_self_sufficient(toy_cuts, tmp_path):
    info = make_trainer(toy_cuts, tmp_path).run()
    assert info["averaged"] == AVERAGED
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [*STATES, *AVERAGED]
    four, six = (read_tensors(tmp_path / "checkpoints" / name, "weights")[0] for name in info["averaged"])
    bundle = checkpoint.load_model(tmp_path)
    for name, tensor in bundle.model.state_dict().items():
        torch.testing.assert_close(tensor, (four[name] + six[name]) / 2, rtol=1e-6, atol=1e-7)  # one fp32 rounding
    assert bundle.config == CONFIG and bundle.tokenizer.pieces == TOKENIZER.pieces and not bundle.model.training


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])
def test_a_few_sentences_are_learned(toy_cuts, tmp_path, kind):
    config = changed("train", max_steps=60, valid_every_steps=60, log_every_steps=60)
    optimizer = dataclasses.replace(config.train.optimizer, kind=kind, lr=1e-2, muon_lr=1e-2, schedule="linear")
    trainer = make_trainer(toy_cuts, tmp_path, changed("train", config, optimizer=optimizer))
    before = trainer.validate()["loss_per_frame"]
    assert trainer.run()["valid"]["loss_per_frame"] < before / 2


def test_residual_starts_as_the_shared_model_and_then_trains_everything(toy_cuts, tmp_path):
    make_trainer(toy_cuts, tmp_path / "shared").run()
    source = checkpoint.load_model(tmp_path / "shared").model.train()
    config = changed("encoder", residual=ResidualConfig(3, True))
    trainer = make_trainer(toy_cuts, tmp_path / "residual", config)
    report = trainer.warm_start(source.state_dict(), "shared")
    assert set(report.mapped) == set(source.state_dict())
    assert len(report.fresh) == 2 * 6 * 3  # A, B, D of six projections in two layers
    batch = one_batch(toy_cuts)
    for name, value in batch_losses(source, batch, config.loss).items():
        assert torch.equal(value, batch_losses(trainer.model, batch, config.loss)[name]), name
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.run()
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    assert not still  # averaged over two checkpoints, none equal to the start: W trains as A, B, D do


@pytest.mark.parametrize("change", [{"dim": 8}, {"sharing": 1}, {"num_layers": 1}])
def test_warm_start_refuses_another_architecture(change):
    weights = build_model(changed("encoder", **change), 9).state_dict()
    with pytest.raises(UserError, match="cannot start from there: .*encoder.residual only"):
        warm_start(build_model(CONFIG, 9), weights, "there")


def test_unpruned_objective_is_the_exact_loss(toy_cuts):
    batch = one_batch(toy_cuts)
    model = build_model(CONFIG, TOKENIZER.vocab_size)
    everything = dataclasses.replace(CONFIG.loss, prune_range=int(batch.token_lens.max()) + 1)
    pruned = batch_losses(model, batch, everything)
    exact = batch_losses(model, batch, dataclasses.replace(CONFIG.loss, kind="exact"))
    torch.testing.assert_close(pruned["transducer"], exact["transducer"], rtol=1e-5, atol=0)  # fp32 sums
    parts = pruned["transducer"] + 0.5 * pruned["simple"] + 0.3 * pruned["ctc"]
    torch.testing.assert_close(pruned["loss"], parts, rtol=1e-6, atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_the_utterances(toy_cuts, tmp_path, caplog):
    trainer = make_trainer(toy_cuts, tmp_path)
    batch = one_batch(toy_cuts)
    batch.features[:] = float("nan")
    before = checkpoint.fingerprint(trainer.model.state_dict())
    _, norm = trainer.update([(0, batch)])
    assert not norm < float("inf") and checkpoint.fingerprint(trainer.model.state_dict()) == before
    with caplog.at_level("WARNING"):
        trainer.left_out.note_bad_update([(0, batch)], 1)
    assert trainer.left_out.bad_updates == 1 and batch.ids[0] in caplog.text
    trainer.left_out.bad_updates = 19
    with pytest.raises(UserError, match="lower train.optimizer.lr"):
        trainer.left_out.note_bad_update([(0, batch)], 1)


def test_an_utterance_whose_loss_is_not_finite_is_left_out_and_named(toy_cuts, tmp_path, caplog, monkeypatch):
    trainer = make_trainer(toy_cuts, tmp_path, changed("loss", ctc_scale=0.0))
    batch = one_batch(toy_cuts)
    batch.features[1, 3, 0] = float("nan")
    sound = batch.without([1])
    assert sound.ids == [batch.ids[0], *batch.ids[2:]] and sound.features.isfinite().all()
    with caplog.at_level("WARNING"):
        (((used, losses),), norm), (((_, expected),), norm_of_sound) = (
            trainer.update([(0, batch)]),
            make_trainer(toy_cuts, tmp_path / "sound", changed("loss", ctc_scale=0.0)).update([(0, sound)]),
        )
        trainer.left_out.tell()
    assert used.ids == sound.ids and 0 < norm == pytest.approx(norm_of_sound, rel=1e-5)
    torch.testing.assert_close(losses.sums["loss"], expected.sums["loss"], rtol=1e-6, atol=0)
    assert f"left out of training: {batch.ids[1]}: its loss is not finite" in caplog.text

    caplog.clear()
    monkeypatch.setattr(trainer.dev, "part", lambda *_: [(0, batch), (1, one_batch(toy_cuts))])
    values = trainer.validate()
    assert batch.ids[1] in caplog.text and values["loss_per_frame"] > 0


def test_an_update_without_any_finite_loss_changes_no_weight(toy_cuts, tmp_path):
    trainer = make_trainer(toy_cuts, tmp_path, changed("loss", ctc_scale=0.0))
    batch = one_batch(toy_cuts)
    batch.features[:] = float("nan")
    before, lr = checkpoint.fingerprint(trainer.model.state_dict()), trainer.optimizer.lr
    losses, norm = trainer.update([(0, batch)])
    assert losses == [] and not norm < float("inf")
    assert checkpoint.fingerprint(trainer.model.state_dict()) == before and trainer.optimizer.lr != lr


def test_the_sketch_of_dev_is_not_of_its_shortest_utterances_alone(toy_cuts, tmp_path, monkeypatch):
    trainer = make_trainer(toy_cuts, tmp_path, changed("data", max_batch_s=3.0))
    lengths = [int(length) for batch in trainer.dev for length in batch.feature_lens]
    decoded: list[int] = []

    def search(model, encoded, frames, **_):
        decoded.extend(frames.tolist())
        return [Hypothesis([], [], 0.0)] * len(frames)

    monkeypatch.setattr(validation, "greedy_search", search)
    trainer.validate()
    assert len(decoded) == len(lengths)  # there is less than SAMPLE_SECONDS of it
    decoded.clear()
    monkeypatch.setattr(validation, "SAMPLE_SECONDS", sum(lengths) / 100 / 3)
    trainer.validate()
    mean, whole = (sum(x) / len(x) for x in (decoded, [-(-length // 4) for length in lengths]))
    assert len(decoded) < len(lengths) / 2 and abs(mean - whole) < 0.15 * whole
    decoded.clear()
    monkeypatch.setattr(validation, "SAMPLE_SECONDS", 0.01)
    trainer.validate()
    assert decoded  # however long the batches are


@pytest.mark.parametrize("failing", ["MetricsWriter", "validate"])
def test_signal_handlers_are_restored_whatever_fails(toy_cuts, tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(loop, failing, fail)
    with pytest.raises(OSError):
        make_trainer(toy_cuts, tmp_path).run()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_stops_the_training_after_its_update(toy_cuts, tmp_path):
    trainer = make_trainer(toy_cuts, tmp_path)
    update = trainer.update

    def update_and_kill(batches):
        os.kill(os.getpid(), signal.SIGTERM)
        return update(batches)

    trainer.update = update_and_kill
    with pytest.raises(Interrupted):
        trainer.run()
    assert trainer.step == 1 and make_trainer(toy_cuts, tmp_path).resume()


def test_another_configuration_does_not_resume(toy_cuts, tmp_path):
    make_trainer(toy_cuts, tmp_path).run()
    with pytest.raises(UserError, match="another configuration"):
        make_trainer(toy_cuts, tmp_path, changed("encoder", ffn_dim=24)).resume()


def test_a_killed_run_leaves_nothing_that_a_new_one_would_average(toy_cuts, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-4.safetensors", "step-100.safetensors", ".77.step-6.safetensors"):
        (folder / name).write_text("half")
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "train/lo')
    (tmp_path / ".77.model.safetensors").write_text("half")
    (tmp_path / ".77.new.export").mkdir()
    info = make_trainer(toy_cuts, tmp_path).run()
    assert info["averaged"] == AVERAGED
    assert sorted(path.name for path in folder.iterdir()) == [*STATES, *AVERAGED]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
