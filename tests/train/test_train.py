"""The trainer: resuming, averaging, warm start, what it refuses; and the objective against the exact loss."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from test_batches import TEXTS, TOKENIZER, F, make_cut

from residualformer.config.loading import config_to_dict
from residualformer.config.schema import (
    Config,
    DataConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    LossConfig,
    OptimizerConfig,
    PredictorConfig,
    ResidualConfig,
    SpecAugmentConfig,
    TokenConfig,
    TrainConfig,
)  # fmt: skip
from residualformer.data.batches import EvalBatches
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.hypotheses import Hypothesis
from residualformer.errors import UserError
from residualformer.loss.objective import TransducerObjective
from residualformer.model import checkpoint
from residualformer.model.identity import is_same_training
from residualformer.nn.transducer import build_model
from residualformer.train import loop, setup, validation
from residualformer.train.loop import Interrupted, Trainer
from residualformer.train.optimizer import Optimizer, learning_rate_factor
from residualformer.train.warm_start import warm_start

CONFIG = Config(
    features=FeatureConfig(num_mel_bins=F),
    encoder=EncoderConfig(
        num_layers=2, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=2, dropout=0.0, look_back_ms=None
    ),
    predictor=PredictorConfig(embedding_dim=8, hidden_dim=16, num_layers=1, dropout=0.0),
    joiner=JoinerConfig(dim=16),
    loss=LossConfig(ctc_scale=0.3),
    data=DataConfig(
        speeds=[1.0], max_batch_s=12.0, max_utterance_s=12.0, num_buckets=2,
        specaugment=SpecAugmentConfig(max_freq_bins=2),
    ),
    train=TrainConfig(
        max_steps=6, precision="fp32", average_last=2, save_every_steps=2, valid_every_steps=100, log_every_steps=2,
        optimizer=OptimizerConfig(kind="muon", lr=3e-3, muon_lr=3e-3, warmup_steps=2),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def cuts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fbank")
    made = [make_cut(folder, f"u{i}", 40 + 9 * i, text, i) for i, text in enumerate(TEXTS)]
    CutSet.from_cuts(made).to_file(folder / "cuts.jsonl.gz")
    return {"train": folder / "cuts.jsonl.gz", "dev": folder / "cuts.jsonl.gz"}


def make_trainer(cuts, folder: Path, config: Config = CONFIG) -> Trainer:
    cmvn = torch.full((F,), 9.0), torch.full((F,), 6.0)
    folder.mkdir(exist_ok=True, parents=True)
    return Trainer(config, TOKENIZER, cuts, cmvn, folder, {"config": config_to_dict(config)})


def changed(section: str, config: Config = CONFIG, **values) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def batch_losses(model, batch, config):
    return TransducerObjective(config).from_features(model, batch.features, batch.feature_lens, batch)


def one_batch(cuts):
    return next(iter(EvalBatches(cuts["dev"], 30.0, TOKENIZER)))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_with_the_same_bits(cuts, tmp_path, dropout):
    config = changed("predictor", changed("encoder", dropout=dropout), dropout=dropout, token_dropout=dropout)
    info = make_trainer(cuts, tmp_path / "straight", config).run()
    first = make_trainer(cuts, tmp_path / "broken", config)
    update = first.update

    def update_and_stop(batch):
        first.stop_requested = first.step == 2  # as SIGTERM would, in the third update
        return update(batch)

    first.update = update_and_stop
    with pytest.raises(Interrupted):
        first.run()
    second = make_trainer(cuts, tmp_path / "broken", config)
    assert second.resume() and second.step == 3
    second.run()
    straight, broken = (torch.load(tmp_path / name / "model.pt") for name in ("straight", "broken"))
    assert straight["info"]["fingerprint"] == broken["info"]["fingerprint"] == info["fingerprint"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 6]  # three training records and the last validation, none twice


def test_model_is_the_mean_of_the_last_checkpoints_and_self_sufficient(cuts, tmp_path):
    info = make_trainer(cuts, tmp_path).run()
    assert info["averaged"] == ["step-4.pt", "step-6.pt"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["resume.pt", "step-4.pt", "step-6.pt"]
    four, six = (torch.load(tmp_path / "checkpoints" / name) for name in info["averaged"])
    bundle = checkpoint.load_model(tmp_path)
    for name, tensor in bundle.model.state_dict().items():
        torch.testing.assert_close(tensor, (four[name] + six[name]) / 2, rtol=1e-6, atol=1e-7)  # one fp32 rounding
    assert bundle.config == CONFIG and bundle.tokenizer.pieces == TOKENIZER.pieces and not bundle.model.training


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])
def test_a_few_sentences_are_learned(cuts, tmp_path, kind):
    config = changed("train", max_steps=60, valid_every_steps=60, log_every_steps=60)
    optimizer = dataclasses.replace(config.train.optimizer, kind=kind, lr=1e-2, muon_lr=1e-2, schedule="linear")
    trainer = make_trainer(cuts, tmp_path, changed("train", config, optimizer=optimizer))
    before = trainer.validate()["loss_per_frame"]
    assert trainer.run()["valid"]["loss_per_frame"] < before / 2


def test_residual_starts_as_the_shared_model_and_then_trains_everything(cuts, tmp_path):
    make_trainer(cuts, tmp_path / "shared").run()
    source = checkpoint.load_model(tmp_path / "shared").model.train()
    config = changed("encoder", residual=ResidualConfig(3, True))
    trainer = make_trainer(cuts, tmp_path / "residual", config)
    report = trainer.warm_start(source.state_dict(), "shared")
    assert set(report.mapped) == set(source.state_dict())
    assert len(report.fresh) == 2 * 6 * 3  # A, B, D of six projections in two layers
    batch = one_batch(cuts)
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


def test_unpruned_objective_is_the_exact_loss(cuts):
    batch = one_batch(cuts)
    model = build_model(CONFIG, TOKENIZER.vocab_size)
    everything = dataclasses.replace(CONFIG.loss, prune_range=int(batch.token_lens.max()) + 1)
    pruned = batch_losses(model, batch, everything)
    exact = batch_losses(model, batch, dataclasses.replace(CONFIG.loss, kind="exact"))
    torch.testing.assert_close(pruned["transducer"], exact["transducer"], rtol=1e-5, atol=0)  # fp32 sums
    parts = pruned["transducer"] + 0.5 * pruned["simple"] + 0.3 * pruned["ctc"]
    torch.testing.assert_close(pruned["loss"], parts, rtol=1e-6, atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_the_utterances(cuts, tmp_path, caplog):
    trainer = make_trainer(cuts, tmp_path)
    batch = one_batch(cuts)
    batch.features[0, 3, 0] = float("nan")
    before = checkpoint.fingerprint(trainer.model.state_dict())
    _, norm = trainer.update(batch)
    assert not norm < float("inf") and checkpoint.fingerprint(trainer.model.state_dict()) == before
    with caplog.at_level("WARNING"):
        trainer.note_bad_update(batch)
    assert trainer.bad_updates == 1 and batch.ids[0] in caplog.text
    trainer.bad_updates = 19
    with pytest.raises(UserError, match="lower train.optimizer.lr"):
        trainer.note_bad_update(batch)


def test_a_loss_that_is_not_finite_is_skipped_and_named_in_training_and_validation(cuts, tmp_path, caplog):
    trainer = make_trainer(cuts, tmp_path, changed("loss", ctc_scale=0.0))
    batch = one_batch(cuts)
    batch.features[1, 3, 0] = float("nan")
    before, lr = checkpoint.fingerprint(trainer.model.state_dict()), trainer.optimizer.lr
    with caplog.at_level("WARNING"):
        losses, norm = trainer.update(batch)
    assert losses.sums == {} and not norm < float("inf")
    assert checkpoint.fingerprint(trainer.model.state_dict()) == before and trainer.optimizer.lr != lr
    assert f"utterance 1 of the batch: logits hold nan or inf, so there is no loss; {batch.ids[1]}" in caplog.text

    caplog.clear()
    trainer.dev = [batch, one_batch(cuts)]
    values = trainer.validate()
    assert batch.ids[1] in caplog.text and values["loss_per_frame"] > 0


def test_the_sketch_of_dev_is_not_of_its_shortest_utterances_alone(cuts, tmp_path, monkeypatch):
    trainer = make_trainer(cuts, tmp_path, changed("data", max_batch_s=3.0))
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
def test_signal_handlers_are_restored_whatever_fails(cuts, tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(loop, failing, fail)
    with pytest.raises(OSError):
        make_trainer(cuts, tmp_path).run()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_stops_the_training_after_its_update(cuts, tmp_path):
    trainer = make_trainer(cuts, tmp_path)
    update = trainer.update

    def update_and_kill(batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return update(batch)

    trainer.update = update_and_kill
    with pytest.raises(Interrupted):
        trainer.run()
    assert trainer.step == 1 and make_trainer(cuts, tmp_path).resume()


def test_another_configuration_does_not_resume(cuts, tmp_path):
    make_trainer(cuts, tmp_path).run()
    with pytest.raises(UserError, match="another configuration"):
        make_trainer(cuts, tmp_path, changed("encoder", ffn_dim=24)).resume()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    checkpoint.save({"x": torch.ones(2)}, path)

    def full(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        checkpoint.save({"x": torch.zeros(2)}, path)
    assert torch.equal(torch.load(path)["x"], torch.ones(2)) and list(tmp_path.iterdir()) == [path]


def test_damaged_or_foreign_models_are_refused(cuts, tmp_path):
    with pytest.raises(UserError, match="training has not finished"):
        checkpoint.load_model(tmp_path)
    make_trainer(cuts, tmp_path).run()
    path = tmp_path / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_model(tmp_path)
    path.write_bytes(whole)
    value = torch.load(path)
    value["tokenizer"] = value["tokenizer"] | {"pieces": value["tokenizer"]["pieces"][:-1]}
    checkpoint.save(value, path)
    with pytest.raises(UserError, match="tokens, but its token set has"):
        checkpoint.load_model(tmp_path)
    value = torch.load(io.BytesIO(whole))
    value["weights"]["joiner.vocabulary.bias"][0] += 1  # as a flipped bit would
    checkpoint.save(value, path)
    with pytest.raises(UserError, match="damaged: its weights are not those that were written"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02", b"PK\x03\x04" + bytes(99)])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "resume.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="resume.pt is not a checkpoint or is damaged; remove it"):
        checkpoint.load(path)
    checkpoint.save([1], path)
    with pytest.raises(UserError, match="resume.pt is not a checkpoint of this toolkit, which holds identity"):
        checkpoint.load(path, "identity")


def test_a_flipped_bit_is_noticed_in_every_checkpoint(tmp_path):
    path = tmp_path / "step-4.pt"
    checkpoint.save({"weight": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(4000)) + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="step-4.pt is not a checkpoint or is damaged"):
        checkpoint.average([path])


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "resume.pt")

    checkpoint.save([1], tmp_path / "resume.pt")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        checkpoint.load(tmp_path / "resume.pt")


def test_a_killed_run_leaves_nothing_that_a_new_one_would_average(cuts, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-4.pt", "step-100.pt", ".77.step-6.pt"):
        (folder / name).write_text("half")
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "train/lo')
    (tmp_path / ".77.model.pt").write_text("half")
    (tmp_path / ".77.new.export").mkdir()
    info = make_trainer(cuts, tmp_path).run()
    assert info["averaged"] == ["step-4.pt", "step-6.pt"]
    assert sorted(path.name for path in folder.iterdir()) == ["resume.pt", "step-4.pt", "step-6.pt"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_tokens_are_those_of_the_configuration_and_of_the_model_to_start_from(tmp_path):
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    assert setup.read_tokens(path, TokenConfig("char")).pieces == TOKENIZER.pieces
    with pytest.raises(UserError, match="kind char, but tokens.kind = bpe and tokens.vocab_size = 30"):
        setup.read_tokens(path, TokenConfig("bpe", 30))
    weights = build_model(CONFIG, TOKENIZER.vocab_size).state_dict()
    model = tmp_path / "model.pt"
    checkpoint.save_model(model, weights, CONFIG, TOKENIZER, {})
    encoder = changed("encoder", residual=ResidualConfig(3, True)).encoder
    assert setup.warm_start_weights(model, TOKENIZER, encoder).keys() == weights.keys()
    other = Tokenizer([*TOKENIZER.pieces[:2], *reversed(TOKENIZER.pieces[2:])])  # as many, in another order
    with pytest.raises(UserError, match="model.pt writes other tokens"):
        setup.warm_start_weights(model, other, encoder)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"sharing": [0, 0, 0, 1]}, "sharing is 2, but .0, 0, 0, 1. is"), ({"num_heads": 4}, "num_heads is 2, but 4 is")],
)
def test_weights_of_the_same_shapes_but_of_other_layers_are_no_start(tmp_path, change, told):
    config = changed("encoder", num_layers=4)
    model, other = tmp_path / "model.pt", changed("encoder", config, **change)
    weights = build_model(config, TOKENIZER.vocab_size).state_dict()
    checkpoint.save_model(model, weights, config, TOKENIZER, {})
    warm_start(build_model(other, TOKENIZER.vocab_size), weights, "the shapes fit")
    with pytest.raises(UserError, match=f"cannot start from {model}: its encoder.{told} configured"):
        setup.warm_start_weights(model, TOKENIZER, other.encoder)


def test_a_run_goes_on_with_a_newer_version_that_has_more_settings(cuts, tmp_path):
    tokens, config = "fingerprint", config_to_dict(CONFIG)
    older = {**config, "data": {name: value for name, value in config["data"].items() if name != "pad_start_ms"}}
    resume = tmp_path / "run" / "checkpoints" / "resume.pt"
    checkpoint.save({"identity": {"config": older, "tokens": tokens}}, resume)
    assert setup.prepare_folder(tmp_path / "run", {"config": config, "tokens": tokens}) and resume.is_file()
    held, wanted = {"config": older, "tokens": tokens}, {"config": config, "tokens": tokens}
    for changes in ({"config": config_to_dict(changed("data", pad_start_ms=10))}, {"tokens": "others"}):
        assert not is_same_training(held, wanted | changes)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate_rises_and_falls(schedule):
    factor = learning_rate_factor(OptimizerConfig(schedule=schedule, warmup_steps=10), 110)
    assert [factor(0), factor(9), factor(10), factor(60), factor(110)] == pytest.approx([0.1, 1, 1, 0.5, 0])


def test_muon_takes_the_shared_matrices_and_nothing_else():
    model = build_model(changed("encoder", residual=ResidualConfig(2, True)), 9)
    adamw, muon = Optimizer(model, CONFIG.train).parts
    owned = [{id(p) for group in part.param_groups for p in group["params"]} for part in (adamw, muon)]
    assert owned[1] == {id(p) for name, p in model.named_parameters() if "bank" in name and name.endswith("weight")}
    assert owned[0] | owned[1] == {id(p) for p in model.parameters()} and not owned[0] & owned[1]


def test_a_learning_rate_that_never_peaks_is_told(caplog):
    setup.warn_of_warmup(99, 100)
    assert not caplog.records
    setup.warn_of_warmup(100, 100)
    assert "never peaks: train.optimizer.warmup_steps = 100, but train.max_steps = 100" in caplog.text
