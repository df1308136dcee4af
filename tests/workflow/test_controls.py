"""Stage 7 decodes an AmNet once by its arbitrator and once by each of its controls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from residualformer.model.identity import decisive_values
from residualformer.workflow.recipe import Recipe

CONTROLS = ["slow", "fast", "random", "oracle"]


@pytest.fixture
def recipe(root, tmp_path) -> Recipe:
    return Recipe(root / "conf" / "mini", tmp_path)


def test_each_control_has_a_step_with_a_marker_of_its_own(recipe):
    steps = recipe.decodings("test", "mf_amr")  # which inherits them from mf_avg
    assert [step.part for step in steps] == ["decode_test", *(f"decode_test_{by}" for by in CONTROLS)]
    assert "--branches" not in steps[0].command
    for by, step in zip(CONTROLS, steps[1:], strict=True):
        assert list(step.command)[list(step.command).index("--branches") + 1] == by
        assert step.title == f"decode test with mf_amr, branches: {by}"
        assert step.makes == [f"decode_test_greedy*_{by}/hyp.jsonl", f"decode_test_beam*_{by}/hyp.jsonl"]


@pytest.mark.parametrize("name", ["rnnt", "mf", "baseline"])
def test_models_without_branches_are_decoded_once(recipe, name):
    assert [step.part for step in recipe.decodings("test", name)] == ["decode_test"]


def test_controls_change_no_training(recipe):
    (experiment,) = recipe.plan(["mf_avg"])
    config = experiment.config
    other = replace(config, amnet=replace(config.amnet, controls=[]))
    assert decisive_values(other) == decisive_values(config)
