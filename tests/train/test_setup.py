"""The set-up of a training: tokens, the model to start from, the run folder."""

from __future__ import annotations

import pytest
from support.toy_training import CONFIG, TOKENIZER, changed, make_trainer

from residualformer.config.loading import config_to_dict
from residualformer.config.schema import Config, DataConfig, FeatureConfig, ResidualConfig, TokenConfig
from residualformer.data.features import Statistics, write_feature_files
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.model.identity import training_changes
from residualformer.nn.transducer import build_model
from residualformer.train import setup
from residualformer.train.warm_start import warm_start


def test_tokens_are_those_of_the_configuration(tmp_path):
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    assert setup.read_tokens(path, TokenConfig("char")).pieces == TOKENIZER.pieces
    with pytest.raises(UserError, match="kind char, but tokens.kind = bpe and tokens.vocab_size = 30"):
        setup.read_tokens(path, TokenConfig("bpe", 30))
    weights = build_model(CONFIG, TOKENIZER.vocab_size).state_dict()
    model = tmp_path / "model.safetensors"
    checkpoint.save_model(model, weights, CONFIG, TOKENIZER, {})
    encoder = changed("encoder", residual=ResidualConfig(3, True)).encoder
    assert setup.model_to_start_from(model, encoder).weights.keys() == weights.keys()


@pytest.mark.parametrize(
    ("change", "told"),
    [({"sharing": [0, 0, 0, 1]}, "sharing is 2, but .0, 0, 0, 1. is"), ({"num_heads": 4}, "num_heads is 2, but 4 is")],
)
def test_weights_of_the_same_shapes_but_of_other_layers_are_no_start(tmp_path, change, told):
    config = changed("encoder", num_layers=4)
    model, other = tmp_path / "model.safetensors", changed("encoder", config, **change)
    weights = build_model(config, TOKENIZER.vocab_size).state_dict()
    checkpoint.save_model(model, weights, config, TOKENIZER, {})
    warm_start(build_model(other, TOKENIZER.vocab_size), weights, "the shapes fit")
    with pytest.raises(UserError, match=f"cannot start from {model}: its encoder.{told} configured"):
        setup.model_to_start_from(model, other.encoder)


def test_a_run_goes_on_with_a_newer_version_that_has_more_settings(toy_cuts, tmp_path):
    tokens, config = "fingerprint", config_to_dict(CONFIG)
    older = {**config, "data": {name: value for name, value in config["data"].items() if name != "pad_start_ms"}}
    trainer = make_trainer(toy_cuts, tmp_path / "run")
    trainer.identity = {"config": older, "tokens": tokens}
    trainer.run()
    (tmp_path / "run" / "model.safetensors").unlink()
    assert setup.prepare_folder(tmp_path / "run", {"config": config, "tokens": tokens}).changes == []
    assert not (tmp_path / "old").exists()
    held, wanted = {"config": older, "tokens": tokens}, {"config": config, "tokens": tokens}
    for changes in ({"config": config_to_dict(changed("data", pad_start_ms=10))}, {"tokens": "others"}):
        assert training_changes(held, wanted | changes)


def test_folders_of_a_mixture_have_the_features_of_the_configuration(tmp_path):
    for name, bins in (("own", 80), ("like", 80), ("other", 40)):
        (tmp_path / name / "shar_train").mkdir(parents=True)
        write_feature_files(tmp_path / name, FeatureConfig(num_mel_bins=bins), Statistics([0.0], [1.0], 1))

    def config(*folders: str) -> Config:
        return Config(data=DataConfig(shar=[str(tmp_path / each) for each in folders]))

    setup.check_features(config("like", "like/shar_train", "without"), tmp_path / "own")
    for folder in ("other", "other/shar_train"):
        with pytest.raises(UserError, match="other holds .*num_mel_bins=40.* is configured; run stage 2 again"):
            setup.check_features(config("like", folder), tmp_path / "own")


def test_a_learning_rate_that_never_peaks_is_told(caplog):
    setup.warn_of_warmup(99, 100)
    assert not caplog.records
    setup.warn_of_warmup(100, 100)
    assert "never peaks: train.optimizer.warmup_steps = 100, but train.max_steps = 100" in caplog.text
