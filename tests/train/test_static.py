"""The static control of an AmNet: one branch that costs what the AmNet's mean frame costs, trained as long."""

from __future__ import annotations

import dataclasses

import pytest
from support.toy_training import CONFIG, TOKENIZER, write_toy_data

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig
from residualformer.config.schema import Config, EncoderConfig, JoinerConfig, LossConfig, TokenConfig
from residualformer.config.training import OptimizerConfig
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.model import checkpoint
from residualformer.model.cost import flops_per_frame, planned_flops
from residualformer.nn.transducer import build_model
from residualformer.train import validation
from residualformer.train.ranks import Ranks
from residualformer.train.setup import compressed_to_match, make_trainer

SHARE = 0.4
AMNET = AmNetConfig("factorised", [0.2, 0.7], arbitrator=ArbitratorConfig(2, 1))
RNNT = dataclasses.replace(
    CONFIG,
    tokens=TokenConfig("char"),
    encoder=EncoderConfig(kind="lstm", num_layers=2, dim=16, dropout=0.0),
    joiner=JoinerConfig("additive"),
    loss=LossConfig(kind="simple", ctc_scale=0.3),
    train=dataclasses.replace(CONFIG.train, max_steps=4, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2)),
)


def with_amnet(amnet: AmNetConfig) -> Config:
    return dataclasses.replace(RNNT, amnet=amnet)


STATIC = with_amnet(AmNetConfig("factorised", [0.5], match="mf_avg"))


@pytest.fixture
def exp(tmp_path):
    """The run folder of an AmNet that was trained to `SHARE` slow frames, and of its dense start."""
    for name, config, valid in (("mf_avg", with_amnet(AMNET), {"slow_share": SHARE}), ("rnnt", RNNT, {})):
        weights = build_model(config, TOKENIZER.vocab_size).state_dict()
        checkpoint.save_model(tmp_path / name / "model.safetensors", weights, config, TOKENIZER, {"valid": valid})
    return tmp_path


def layers_of(config: Config) -> list[float]:
    return planned_flops(config, TOKENIZER.vocab_size)["branches"]


@pytest.mark.parametrize("method", ["factorised", "sparse"])
def test_one_branch_costs_what_a_frame_of_the_amnet_costs_on_average(exp, method):
    flops = planned_flops(with_amnet(AMNET))
    slow, fast = flops["branches"]
    wanted = SHARE * slow + (1 - SHARE) * fast + flops["arbitrator"]
    config = compressed_to_match(with_amnet(dataclasses.replace(STATIC.amnet, method=method)), exp / "static")
    (found,) = layers_of(config)
    # Of each of the four matrices less than one rank is missing, or half a weight is too many.
    slack = 64 + 12 + 3 * (64 + 16) if method == "factorised" else 0
    assert wanted - slack - 4 <= found <= wanted + 4
    assert compressed_to_match(config, exp / "static") == config and config.amnet.match == "mf_avg"


def test_it_is_never_larger_than_the_slow_branch(exp):
    for share in (1.0, 0.9):
        weights = checkpoint.read_model(exp / "mf_avg" / "model.safetensors").weights
        record = {"valid": {"slow_share": share}}
        checkpoint.save_model(exp / "mf_avg" / "model.safetensors", weights, with_amnet(AMNET), TOKENIZER, record)
        assert layers_of(compressed_to_match(STATIC, exp / "static"))[0] <= layers_of(with_amnet(AMNET))[0]


def test_others_are_left_alone_and_what_cannot_be_matched_is_named(exp):
    assert compressed_to_match(RNNT, exp / "static") is RNNT
    dense = with_amnet(dataclasses.replace(STATIC.amnet, match="rnnt"))
    with pytest.raises(UserError, match="rnnt/model.safetensors has no two branches whose mean cost could be matched"):
        compressed_to_match(dense, exp / "static")
    missing = with_amnet(dataclasses.replace(STATIC.amnet, match="mf_amr"))
    with pytest.raises(UserError, match="static matches the cost of .*mf_amr, which holds no model.safetensors"):
        compressed_to_match(missing, exp / "static")


def test_the_training_takes_and_records_the_compression(exp, monkeypatch):
    nothing = Hypothesis([], [], 0.0)  # toy models write five labels a frame, which takes long
    monkeypatch.setattr(validation, "greedy_search", lambda model, encoded, lengths, **_: [nothing] * len(lengths))
    data, run = write_toy_data(exp / "data"), exp / "static"
    config = dataclasses.replace(STATIC, warm_start="rnnt")
    trainer = make_trainer(config, data, run, None, "", Ranks())
    assert trainer is not None
    trainer.run()
    bundle = checkpoint.load_model(run)
    assert bundle.config == compressed_to_match(config, run) != config
    assert flops_per_frame(bundle.model)["branches"] == layers_of(bundle.config)
    assert make_trainer(config, data, run, None, "", Ranks()) is None  # finished, and the same
