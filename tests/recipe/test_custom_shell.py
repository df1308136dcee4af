"""What the stage script does for your own data: values that stage 1 chose, configurations apart from results."""

from __future__ import annotations

import json

from support.fake_recipe import Recipe


def trained_with(recipe: Recipe, egs: str, *keys: str) -> list:
    """The values of `keys` that the training of `baseline` was run with."""
    marker = json.loads((recipe.folder / "egs" / egs / "exp/.baseline.done").read_text())
    return [marker["identity"][key] for key in keys]


def test_chosen_values_come_over_the_experiment_and_under_set(recipe):
    recipe.write("egs/mine/data/manifests/chosen.yaml", "encoder: {num_layers: 6, dim: 64}")
    options = ["--recipe", "fake", "--name", "mine", "--experiments", "baseline", "--stop-stage", "4"]
    recipe.run(*options, "--set", "encoder.dim=128")
    assert trained_with(recipe, "mine", "encoder.num_layers", "encoder.dim") == [6, 128]
    assert not (recipe.folder / "egs/fake").exists()
    recipe.write("egs/mine/data/manifests/chosen.yaml", "encoder: {num_layers: 8, dim: 64}")
    printed = recipe.run(*options, "--set", "encoder.dim=128").stdout
    assert "encoder.num_layers 6 -> 8" in printed and "baseline" in recipe.calls


def test_chosen_values_that_do_not_fit_are_refused_before_any_work(recipe):
    recipe.write("egs/fake/data/manifests/chosen.yaml", "encoder: {dim: 64}")
    refused = recipe.run("--set", "encoder.num_heads=5", status=2).stderr
    assert "chosen.yaml" in refused and "encoder.num_heads = 5" in refused and recipe.calls == []
