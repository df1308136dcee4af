"""Times of trainings to come, guessed from those that have run."""

from __future__ import annotations

import json

import pytest

from residualformer.config.amnet import AmNetConfig
from residualformer.config.loading import dump_config
from residualformer.config.schema import Config, EncoderConfig, ResidualConfig, TrainConfig
from residualformer.workflow.pace import FIXED, Pace, pace_of, seconds_left, seconds_per_update, work


def config(layers: int = 4, kind: str = "transformer", rank: int = 0, **train) -> Config:
    residual = ResidualConfig(rank=rank)
    encoder = EncoderConfig(kind=kind, num_layers=layers, dim=8, num_heads=2, ffn_dim=32, residual=residual)
    return Config(encoder=encoder, train=TrainConfig(**train))


def test_work_counts_the_weights_of_the_layers():
    assert work(config(4)) == 4 * (4 * 8 * 8 + 2 * 8 * 32) * Config().data.max_batch_s
    two = Config(encoder=EncoderConfig(kind="lstm", num_layers=2, dim=8), amnet=AmNetConfig(compression=[0.3, 0.6]))
    assert work(two) == 2 * 2 * (4 * 2 * 8 * 8) * Config().data.max_batch_s


def test_a_pace_is_read_from_a_run_folder(tmp_path):
    assert pace_of(tmp_path) is None
    dump_config(config(), tmp_path / "config.yaml")
    lines = [{"step": 50, "train/wall_s": 20.0}, {"step": 100, "train/wall_s": 50.0}, {"step": 100, "valid/x": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 150, "tr')
    assert pace_of(tmp_path) == Pace(config(), 100, 50.0)


def test_the_nearest_training_of_the_same_kind_sets_the_pace():
    known = [Pace(config(18), 100, 180.0), Pace(config(6), 100, 80.0), Pace(config(5, "lstm"), 100, 7.0)]
    assert seconds_per_update(config(6), known) == pytest.approx(0.8)
    assert seconds_per_update(config(3), known) == pytest.approx(0.8 * (FIXED + (1 - FIXED) / 2))
    assert seconds_per_update(config(5, "lstm"), known) == pytest.approx(0.07)
    assert seconds_per_update(config(5, "gru"), known) is None and seconds_per_update(config(), []) is None
    residual = Pace(config(6, rank=4), 100, 99.0)
    assert seconds_per_update(config(6, rank=2), [*known, residual]) == pytest.approx(0.99)


def test_what_is_left_goes_on_at_its_own_pace():
    known = [Pace(config(), 10, 20.0)]
    assert seconds_left(config(max_steps=300), None, known) == pytest.approx(600)
    assert seconds_left(config(max_steps=300), Pace(config(), 100, 50.0), known) == pytest.approx(100)
    assert seconds_left(config(max_steps=300), Pace(config(), 300, 150.0), known) == 0
    assert seconds_left(config(max_steps=300), None, []) is None
