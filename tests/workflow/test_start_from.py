"""Trainings of a recipe that start from a model of another one: which values, options and tokens they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from residualformer.config.loading import load_config
from residualformer.config.schema import TokenConfig
from residualformer.data.tokenizer import train_tokenizer
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.train.parameters import STATISTICS, check_patterns, freeze, is_frozen
from residualformer.workflow.recipe import Recipe
from residualformer.workflow.start_from import architecture
from steps import train_tokenizer as stage_3

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["encoder.dim=16", "encoder.ffn_dim=24", "predictor.hidden_dim=8", "encoder.dropout=0.4"]
TOKENS = train_tokenizer(["A SMALL CAB"], TokenConfig("char"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a small model of mini's `residual`."""
    folder = tmp_path_factory.mktemp("run")
    config = load_config(ROOT / "conf" / "mini" / "residual.yaml", SMALL)
    weights = build_model(config, TOKENS.vocab_size).state_dict()
    checkpoint.save_model(folder / "model.safetensors", weights, config, TOKENS, {})
    return folder


@pytest.mark.parametrize("name", ["finetune", "adapt"])
def test_layers_and_sizes_are_those_of_the_model_and_all_else_is_the_recipes(run, tmp_path, name):
    recipe = Recipe(ROOT / "conf" / "custom", tmp_path, ("predictor.dropout=0.25",), start_from=run)
    (experiment,) = recipe.plan([name])
    found, own = experiment.config, load_config(ROOT / "conf" / "custom" / f"{name}.yaml")
    theirs = load_config(ROOT / "conf" / "mini" / "residual.yaml", SMALL)
    assert found.encoder.residual == theirs.encoder.residual and found.encoder.sharing == theirs.encoder.sharing
    assert found.encoder.dim == 16 and found.predictor.hidden_dim == 8 and found.joiner == theirs.joiner
    assert (found.encoder.dropout, found.predictor.dropout) == (own.encoder.dropout, 0.25)
    assert (found.train, found.data, found.loss) == (own.train, own.data, own.loss)
    step = recipe.training(experiment)
    assert step.command[-2:] == ["--warm-start", str(run)] and [*step.inputs] == [str(run)]
    command = recipe.tokens().command
    assert command[command.index("--start-from") + 1] == str(run)


@pytest.mark.parametrize(("name", "learned"), [("adapt_diagonal", "D"), ("adapt", "ABD")])
def test_phrases_adapt_by_residuals_alone_and_keep_the_statistics_of_real_speech(run, tmp_path, name, learned):
    (experiment,) = Recipe(ROOT / "conf" / "phrases", tmp_path, start_from=run).plan([name])
    model = build_model(experiment.config, TOKENS.vocab_size)
    check_patterns(experiment.config, TOKENS.vocab_size)
    freeze(model, experiment.config.train)
    names = {each for each, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".norm" in each or each.rpartition(".")[2] in learned for each in names)
    assert {each.rpartition(".")[2] for each in names if ".norm" not in each} == set(learned)
    assert all(is_frozen(each, experiment.config.train) for each in STATISTICS)


def test_what_cannot_be_started_from_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no model.safetensors: give a run folder whose training has finished"):
        architecture(tmp_path)
    config = load_config(ROOT / "conf" / "mini" / "mf.yaml", ["encoder.dim=8", "encoder.num_layers=1"])
    weights = build_model(config, TOKENS.vocab_size).state_dict()
    checkpoint.save_model(tmp_path / "model.safetensors", weights, config, TOKENS, {})
    with pytest.raises(UserError, match="has branches or an arbitrator, whose training has phases"):
        architecture(tmp_path)


def test_tokens_are_those_of_the_model_where_they_suffice(run, capsys):
    found = stage_3.tokens_of(run, ["A CAB", "BALL"])
    assert found is not None and found.pieces == TOKENS.pieces and not capsys.readouterr().out
    assert stage_3.tokens_of(run, ["A CAB", "DÉJÀ"]) is None
    assert "lack D J À É; new ones are learned" in capsys.readouterr().out
