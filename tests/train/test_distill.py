"""Learning from the outputs of a teacher: set-up, what falls, what a stop changes, and who may teach."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.toy_training import TEXTS, TOKENIZER, changed, no_transcripts, one_batch, stop_at, write_toy_data

from residualformer.config.schema import Config, EncoderConfig, JoinerConfig, LossConfig, TokenConfig
from residualformer.config.training import DistillConfig
from residualformer.data.tokenizer import Tokenizer, train_tokenizer
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.train import setup
from residualformer.train.distill import Distiller
from residualformer.train.loop import Trainer
from residualformer.train.ranks import Ranks

PLAIN = changed("tokens", kind="char")
STUDENT = changed("train", PLAIN, distill=DistillConfig("teacher"))
LSTM = dataclasses.replace(
    PLAIN,
    encoder=EncoderConfig(kind="lstm", num_layers=1, dim=16, stack_frames=4, dropout=0.0),
    joiner=JoinerConfig("additive"),
    loss=LossConfig(kind="simple"),
)  # a teacher of another architecture, with frames of 40 ms as well


@pytest.fixture(autouse=True)
def fast_validation():
    with no_transcripts():
        yield


def save_teacher(exp: Path, config: Config = LSTM, tokenizer: Tokenizer = TOKENIZER) -> Path:
    """Write a model with random weights, large enough to be sure of something, as a trained one."""
    torch.manual_seed(3)
    weights = build_model(config, tokenizer.vocab_size).state_dict()
    weights = {name: 3 * tensor if name.startswith("joiner") else tensor for name, tensor in weights.items()}
    (exp / "teacher").mkdir(parents=True)
    checkpoint.save_model(exp / "teacher" / "model.safetensors", weights, config, tokenizer, {})
    return exp / "teacher"


def make(config: Config, data: Path, folder: Path) -> Trainer:
    made = setup.make_trainer(config, data, folder, None, "", Ranks())
    assert made is not None
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_toy_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.mark.parametrize("kind", ["pruned", "exact"])
def test_the_divergence_falls_and_the_teacher_stays(data, tmp_path, toy_cuts, kind):
    """With a weight beside which the labels hardly count, a student comes nearer to its teacher in some updates."""
    teacher = save_teacher(tmp_path)
    before = teacher.joinpath("model.safetensors").read_bytes()
    config = changed("train", STUDENT, distill=DistillConfig("teacher", 100.0), max_steps=60)
    config = changed("loss", config, kind=kind)
    made, batch = make(config, data, tmp_path / "student"), one_batch(toy_cuts)
    told = [made.update([(0, batch)])[0][0][1].sums for _ in range(25)]
    assert told[0].keys() >= {"loss", "transducer", "ctc", "distill"}
    first, last = told[0], told[-1]
    assert all(last[name].item() < 0.5 * first[name].item() for name in ("distill", "loss"))
    expected = first["transducer"] + 0.3 * first["ctc"] + 100 * first["distill"]
    expected = expected + 0.5 * first["simple"] if kind == "pruned" else expected
    torch.testing.assert_close(first["loss"], expected, rtol=1e-5, atol=0)
    assert teacher.joinpath("model.safetensors").read_bytes() == before
    made.model.eval()
    assert "distill" not in made.phases.losses(batch, batch.features).sums  # nor is the teacher asked about dev


def test_a_stopped_training_goes_on_to_the_same_bits(data, tmp_path):
    save_teacher(tmp_path, PLAIN)
    whole = make(STUDENT, data, tmp_path / "whole").run()
    stopped = make(STUDENT, data, tmp_path / "stopped")
    stop_at(stopped, 3)
    again = make(STUDENT, data, tmp_path / "stopped")
    assert again.step == 3
    assert again.run()["fingerprint"] == whole["fingerprint"]
    assert make(PLAIN, data, tmp_path / "plain").run()["fingerprint"] != whole["fingerprint"]


def test_another_teacher_makes_another_training(data, tmp_path):
    teacher = save_teacher(tmp_path)
    make(STUDENT, data, tmp_path / "student").run()
    assert setup.make_trainer(STUDENT, data, tmp_path / "student", None, "", Ranks()) is None
    (teacher / "model.safetensors").unlink()
    teacher.rmdir()
    save_teacher(tmp_path, PLAIN)
    with pytest.raises(UserError, match="is of another configuration .run distill [0-9a-f]+ -> [0-9a-f]+.: "):
        make(STUDENT, data, tmp_path / "student")


@pytest.mark.parametrize(
    ("config", "tokenizer", "told"),
    [
        (changed("features", LSTM, num_mel_bins=8), TOKENIZER, "its features are not the student's"),
        (changed("encoder", LSTM, stack_frames=3), TOKENIZER, r"its frames are not the student's \(30 ms, not 40 ms\)"),
        (LSTM, train_tokenizer([*TEXTS, "QUIZ"], TokenConfig("char")), r"its tokens .* of kind char, not \d+ of kind"),
    ],
    ids=["features", "frames", "tokens"],
)
def test_who_may_not_teach(tmp_path, config, tokenizer, told):
    teacher = save_teacher(tmp_path, config, tokenizer)
    with pytest.raises(UserError, match=f"^{teacher} cannot be the teacher of train.distill: {told}.*; name an exp"):
        Distiller(teacher, STUDENT, TOKENIZER)


def test_a_teacher_that_is_not_trained_is_told_before_anything_is_written(data, tmp_path):
    with pytest.raises(UserError, match="student learns the outputs of .*teacher, which holds no model.safetensors"):
        make(STUDENT, data, tmp_path / "student")
    assert not (tmp_path / "student").exists()
