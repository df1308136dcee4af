"""Several test sets, and sets of several splits, in stages 7 and 8 of the stage script."""

from __future__ import annotations

import pytest
from support.fake_recipe import STEP, Recipe

SPLITS = ("dev", "test", "test_long", "mslt@dev", "mslt@test")
DECODE = STEP.replace(
    'Path(args[0]) / "decode_test_beam16"',
    'Path(args[0]) / option("--cuts").name.replace("cuts_", "decode_").replace(".jsonl.gz", "_beam16")',
)


@pytest.fixture
def recipe(root, tmp_path):
    """A recipe whose stages 0 to 6 are done, with several test sets and one experiment."""
    recipe = Recipe(root, tmp_path)
    recipe.write("steps/decode.py", DECODE)
    recipe.run("--stop-stage", "6", "--experiments", "baseline")
    for split in SPLITS:
        recipe.write(f"egs/fake/data/fbank/cuts_{split}.jsonl.gz", "made")
    return recipe


def decoded(recipe: Recipe, *options: str) -> list[str]:
    """The splits that are decoded, and how scoring is called, by a run with these options."""
    recipe.run("--stage", "7", "--experiments", "baseline", *options)
    lines = [line.split() for line in (recipe.folder / "calls.txt").read_text().splitlines()]
    assert all(line[0] in ("decode.py", "score.sh") for line in lines)
    named = [line[line.index("--cuts") + 1] for line in lines if line[0] == "decode.py"]
    assert all("conf/fake/baseline.yaml" in line for line in lines if line[0] == "decode.py")  # as it is now
    splits = [name.rpartition("cuts_")[2].removesuffix(".jsonl.gz") for name in named]
    return splits + [" ".join(line) for line in lines if line[0] == "score.sh"]


def test_a_set_is_its_split_or_its_subsets(recipe):
    score = "score.sh egs/fake --split"
    assert decoded(recipe) == ["test", f"{score} test"]
    assert decoded(recipe, "--test-set", "test_long test") == ["test_long", f"{score} test_long test"]  # test was done
    assert decoded(recipe, "--test-set", "mslt") == ["mslt@dev", "mslt@test", f"{score} mslt"]
    assert decoded(recipe, "--test-set", "mslt@test dev") == ["dev", f"{score} mslt@test dev"]
    assert decoded(recipe, "--test-set", " ".join(SPLITS)) == [f"{score} {' '.join(SPLITS)}"]


def test_another_result_of_a_like_name_changes_nothing(recipe):
    decoded(recipe, "--test-set", "test test_long")
    recipe.write("egs/fake/exp/baseline/decode_test_long_beam16/hyp.jsonl", "changed")
    assert decoded(recipe, "--test-set", "test test_long")[:-1] == ["test_long"]


def test_an_unknown_set_is_told_before_anything_is_trained(recipe):
    done = recipe.run("--test-set", "tset", "--overwrite", status=2)
    assert "--test-set tset: egs/fake/data/fbank holds no cuts_tset.jsonl.gz and no cuts_tset@*.jsonl.gz" in done.stderr
    assert not any("train.py" in line for line in (recipe.folder / "calls.txt").read_text().splitlines())
