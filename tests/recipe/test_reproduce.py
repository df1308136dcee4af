"""A table of the paper from one command, for real at toy size: synthesis, trainings, decoding, scores, the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.toy_recipe import DATA, MODEL, TRAINING, Recipe, copy_of, sets

pytestmark = pytest.mark.slow

SEARCH = {"decode.kind": "greedy"}
TRAINED = ["baseline", "shared", "residual", "control"]  # what corpus mini has of table 3


@pytest.fixture(scope="module")
def recipe(root, tmp_path_factory) -> Recipe:
    recipe = Recipe(copy_of(root, tmp_path_factory.mktemp("reproduce")))
    recipe.env["RESIDUALFORMER_PYTHON"] = sys.executable
    return recipe


def reproduce(recipe: Recipe, *options: str) -> str:
    command = ["local/reproduce.sh", "--table", "3", "--corpus", "mini", *sets(MODEL | TRAINING | SEARCH), *options]
    return recipe.call(*command, "--", *DATA)


def test_the_table_comes_from_one_command(recipe):
    listed = reproduce(recipe, "--dry-run")
    assert "residual  8 updates" in listed and "stay empty: shared6" in listed and not (recipe.egs / "data").exists()
    told = reproduce(recipe, "--jobs", "2")
    assert "== summary: 4 trained" in told and told.splitlines()[-1].endswith(
        str(Path("egs/mini/exp/tables/table3.md"))
    )
    table = json.loads((recipe.egs / "exp" / "tables" / "table3.json").read_text(encoding="utf-8"))
    cells = [cell for row in table["rows"] for cell in row["cells"] if cell]
    ours = {cell["experiment"]: cell["ours"] for cell in cells if cell["ours"]}
    assert list(ours) == ["baseline", "shared", "residual"]
    residual = next(cell for cell in cells if cell["experiment"] == "residual")
    assert residual["control"]["experiment"] == "control" and residual["control"]["against"]["test"]["p_value"] <= 1
    results = json.loads((recipe.egs / "exp" / "results.json").read_text(encoding="utf-8"))
    for row in results["rows"]:
        if row["experiment"] in ours:
            scores = ours[row["experiment"]]["sets"]["test"]
            assert scores["value"] == row["wer"] and scores["loss"] == row["loss"] and scores["loss"]["value"] > 0
    again = reproduce(recipe)
    assert "== summary: 4 was done" in again
    before = (recipe.egs / "exp" / "tables" / "table3.json").read_text(encoding="utf-8")
    shown = reproduce(recipe, "--train", "false")
    assert "summary" not in shown and "3 of 17" not in shown and "4 of 17 experiments" in shown
    after = json.loads((recipe.egs / "exp" / "tables" / "table3.json").read_text(encoding="utf-8"))
    assert after | {"commit": ""} == json.loads(before) | {"commit": ""}
