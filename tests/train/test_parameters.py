"""Parameters that do not learn, and those that learn at a rate of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.toy_training import CONFIG, TOKENIZER, changed, make_trainer, one_batch, stop_at

from residualformer.config.loading import config_from_dict, config_to_dict, dump_config, load_config, load_recorded
from residualformer.config.schema import ResidualConfig
from residualformer.errors import UserError
from residualformer.loss.objective import TransducerObjective
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.train.optimizer import Optimizer
from residualformer.train.parameters import check_patterns, freeze

BASELINE = Path(__file__).resolve().parents[2] / "conf" / "mini" / "baseline.yaml"
RESIDUAL = changed("encoder", residual=ResidualConfig(2, True))
SHARED = ["encoder.bank.*", "encoder.subsampling.*", "predictor.*", "joiner.*", "training_only.*"]
FROZEN = changed("train", RESIDUAL, freeze=SHARED)


def with_optimizer(config, **values):
    return changed("train", config, optimizer=dataclasses.replace(config.train.optimizer, **values))


@pytest.mark.parametrize("patterns", [SHARED, ["*.A", "*.B", "encoder.layers.*.norm?.*"], ["encoder.*"], ["*.weight"]])
def test_what_learns_gets_the_gradients_that_it_gets_when_all_learns(toy_cuts, patterns):
    torch.manual_seed(1)
    model, batch = build_model(RESIDUAL, TOKENIZER.vocab_size), one_batch(toy_cuts)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.1)  # from 0, A would get no gradient

    def gradients():
        model.zero_grad()
        TransducerObjective(RESIDUAL.loss).from_features(model, batch.features, batch.feature_lens, batch)[
            "loss"
        ].backward()
        return {name: p.grad for name, p in model.named_parameters()}

    everything = gradients()
    freeze(model, dataclasses.replace(RESIDUAL.train, freeze=patterns))
    some = gradients()
    left = {name for name, gradient in some.items() if gradient is None}
    assert left == {name for name, p in model.named_parameters() if not p.requires_grad} and 0 < len(left) < len(some)
    scale = max(float(gradient.abs().max()) for gradient in everything.values())
    for name in some.keys() - left:  # to rounding: where the input of a layer needs no gradient, products are others
        torch.testing.assert_close(some[name], everything[name], rtol=1e-3, atol=1e-6 * scale, msg=name)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_is_frozen_is_the_same_bits_in_the_model(toy_cuts, tmp_path, kind):
    trainer = make_trainer(toy_cuts, tmp_path, with_optimizer(FROZEN, kind=kind, weight_decay=0.1))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    same = {name for name, tensor in checkpoint.read_model(tmp_path / "model.safetensors").weights.items()
            if torch.equal(tensor, before[name])}  # fmt: skip
    learned = {name for name in before if name.startswith("encoder.layers.")}
    assert same == before.keys() - learned and learned


def test_a_rate_of_its_own_is_that_of_the_last_pattern_in_either_optimizer():
    model = build_model(RESIDUAL, TOKENIZER.vocab_size)
    factors = {"encoder.*": 0.5, "encoder.bank.0.up.*": 0.1, "joiner.vocabulary.bias": 3.0}
    config = with_optimizer(RESIDUAL, kind="muon", lr=1e-3, muon_lr=1e-2, residual_factor=4.0, factors=factors)
    adam, muon = Optimizer(model, config.train).parts

    def rates(part):
        by_id = {id(p): group["initial_lr"] for group in part.param_groups for p in group["params"]}
        return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}

    of_adam, of_muon = rates(adam), rates(muon)
    assert of_adam.keys() | of_muon.keys() == dict(model.named_parameters()).keys()
    assert of_muon["encoder.bank.0.q.weight"] == pytest.approx(5e-3)
    assert of_muon["encoder.bank.0.up.weight"] == pytest.approx(1e-3)
    assert of_adam["encoder.bank.0.up.bias"] == pytest.approx(1e-4)
    assert of_adam["encoder.layers.1.up.A"] == pytest.approx(1e-3 * 0.5 * 4)
    assert of_adam["joiner.vocabulary.bias"] == pytest.approx(3e-3)
    assert of_adam["joiner.vocabulary.weight"] == adam.param_groups[0]["initial_lr"] == pytest.approx(1e-3)


def test_rates_and_what_is_frozen_survive_an_interruption(toy_cuts, tmp_path):
    config = with_optimizer(FROZEN, factors={"encoder.layers.0.*": 0.5})
    info = make_trainer(toy_cuts, tmp_path / "straight", config).run()
    first = make_trainer(toy_cuts, tmp_path / "broken", config)
    stop_at(first, 3)
    second = make_trainer(toy_cuts, tmp_path / "broken", config)
    assert second.resume() and second.step == 3
    assert second.run()["fingerprint"] == info["fingerprint"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"freeze": ["encoder.layer.*"]}, "train.freeze names 'encoder.layer.*', .* Did you mean 'encoder.layers.*'"),
        ({"freeze": ["*"]}, "no parameter is left to learn"),
        ({"freeze": ["xyz"]}, "There are: encoder.bank.*, encoder.layers.*"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(values, told):
    with pytest.raises(UserError, match=told.replace("*'", r"\*'").replace("*,", r"\*,")):
        check_patterns(changed("train", RESIDUAL, **values), TOKENIZER.vocab_size)
    factors = with_optimizer(CONFIG, factors={"joiner.vocabulary.weights": 0.1})
    with pytest.raises(UserError, match=r"train.optimizer.factors names .* Did you mean 'joiner.vocabulary.weight'"):
        check_patterns(factors, TOKENIZER.vocab_size)
    check_patterns(changed("train", freeze=["encoder.mean", "joiner.*"]), TOKENIZER.vocab_size)


def test_a_mapping_is_one_value_of_the_configuration(tmp_path):
    given = ["train.optimizer.factors={'encoder.layers.*': 0.3, 'joiner.*': 2}"]
    config = load_config(BASELINE, given)
    assert config.train.optimizer.factors == {"encoder.layers.*": 0.3, "joiner.*": 2}
    assert config_from_dict(config_to_dict(config)) == config
    dump_config(config, tmp_path / "config.yaml")
    assert load_recorded(tmp_path / "config.yaml") == config
    with pytest.raises(UserError, match="factors is {'a': 0}; allowed: shell patterns .* factor above 0"):
        load_config(BASELINE, ["train.optimizer.factors={a: 0}"])
    with pytest.raises(UserError, match="factors is 3; it must be a mapping of text to a number"):
        load_config(BASELINE, ["train.optimizer.factors=3"])
