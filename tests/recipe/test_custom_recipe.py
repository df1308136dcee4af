"""Your own data through all stages at toy size: French pairs, and Chinese translations of a table with given splits."""

from __future__ import annotations

import json
import sys

import pytest
from custom_data import CHINESE, FRENCH, LAYOUTS, utterances, write_audio
from support.toy_recipe import MODEL, SEARCH, TRAINING, Recipe, copy_of, sets

pytestmark = pytest.mark.slow

CHOSEN = {"tokens.kind", "tokens.vocab_size"}  # by stage 1


class Custom(Recipe):
    def __init__(self, folder, name):
        super().__init__(folder)
        self.egs = folder / "egs" / name

    def stages(self, *options):
        values = {key: value for key, value in (MODEL | TRAINING | SEARCH).items() if key not in CHOSEN}
        fixed = ["--name", self.egs.name, "--python", sys.executable, "--jobs", "1", *sets(values)]
        return self.call("egs/custom/run.sh", *fixed, *options)


@pytest.fixture(scope="module")
def repository(root, tmp_path_factory):
    return copy_of(root, tmp_path_factory.mktemp("repository"))


def test_pairs_become_models_and_new_data_new_ones(repository, tmp_path):
    data = LAYOUTS["pairs"](tmp_path / "data", utterances())
    recipe = Custom(repository, "french")
    printed = recipe.stages("--data", str(data))
    assert "layout pairs" in printed and "held out by speaker" in printed and "chosen for 0.00 h" in printed
    rows = {row["experiment"]: row for row in recipe.results()["rows"]}
    assert set(rows) == {"baseline", "shared", "residual"} and recipe.results()["corpus"] == "french"
    words = sum(len(cut.supervisions[0].text.split()) for cut in recipe.cuts())
    assert all(row["words"] == words and row["utterances"] == len(recipe.cuts()) for row in rows.values())
    config = (recipe.egs / "exp/shared/config.yaml").read_text()
    letters = {letter for cut in recipe.cuts("train") for letter in cut.supervisions[0].text}
    assert f"vocab_size: {len(letters) + 2}" in config  # as chosen
    assert "\n  dim: 32\n" in config and "\n  max_steps: 8\n" in config  # --set comes over it
    assert {record["ref"] for record in recipe.hypotheses("residual")} <= set(FRENCH)

    printed = recipe.stages("--data", str(data), "--experiments", "baseline")
    assert printed.count("skipped, done before") == 6  # all but the table
    write_audio(data / "s0/new.wav", "new").with_suffix(".txt").write_text("bonjour")
    printed = recipe.stages("--data", str(data), "--stop-stage", "1")
    assert "13 utterances" in printed and "skipped" not in printed.split("stage 1")[1].split("chosen")[0]


def test_translations_of_a_table_with_splits(repository, tmp_path):
    said = utterances()
    for split, part in {"train": said[:8], "dev": said[8:10], "test": said[10:]}.items():
        LAYOUTS["table"](tmp_path / "data", part, split)
    recipe = Custom(repository, "chinese")
    options = ["--target=translation", "--experiments", "baseline"]
    recipe.stages("--data", str(tmp_path / "data"), *options)
    (row,) = recipe.results()["rows"]
    assert row["utterances"] == 2 and row["bleu"]["value"] >= 0
    assert {record["ref"] for record in recipe.hypotheses("baseline")} <= set(CHINESE)
    marker = json.loads((recipe.egs / "data/.lang.done").read_text())
    assert marker["identity"]["tokens.target"] == "translation"


def test_names_of_other_recipes_and_missing_values_are_refused(repository):
    recipe = Custom(repository, "an4")
    with pytest.raises(AssertionError, match="--name 'an4' must be made of letters"):
        recipe.stages()
    with pytest.raises(AssertionError, match="--data needs a value"):
        Custom(repository, "x").stages("--data")
    with pytest.raises(AssertionError, match="--data is missing: give the folder of your data"):
        Custom(repository, "x").stages()
