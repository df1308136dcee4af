"""Your own phrases at toy size, for real: from a list of sentences to an exported model and a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.toy_recipe import MODEL, SEARCH, TRAINING, Recipe, copy_of, sets

pytestmark = pytest.mark.slow
FEW = {  # utterances
    "FEWEST, MOST = 600, 20_000": "FEWEST, MOST = 12, 20_000",
    '{"test": (300, 1000), "dev": (150, 400)}': '{"test": (4, 4), "dev": (4, 4)}',
    '{"other@speech": 200, "other@near": 200, "dev": 100}': '{"other@speech": 2, "other@near": 2, "dev": 2}',
    "BABBLERS = 100": "BABBLERS = 4",
}


def test_from_sentences_to_a_recognizer(root, tmp_path):
    recipe = Recipe(copy_of(root, tmp_path / "copy"))
    program = recipe.folder / "local" / "phrases.py"
    text = program.read_text(encoding="utf-8")
    for old, new in FEW.items():
        assert old in text
        text = text.replace(old, new)
    program.write_text(text, encoding="utf-8")
    options = ["--phrases", "egs/phrases/examples/oven.txt", "--name", "oven", "--repeats", "1", "--jobs", "1"]
    model = {key: value for key, value in MODEL.items() if not key.startswith("tokens.")}
    words = ["--python", sys.executable, *options, *sets(model | TRAINING | SEARCH)]
    printed = recipe.call("egs/phrases/run.sh", *words)
    run = recipe.folder / "egs" / "oven" / "exp" / "shared"
    assert (run / "export" / "model.json").is_file()
    rows = json.loads((run.parent / "grammar.json").read_text(encoding="utf-8"))["rows"]
    counts = {row["split"]: (row["inside"], row["outside"]) for row in rows}
    assert counts == {"test": (4, 0), "other@near": (0, 2), "other@speech": (0, 2)}
    assert "| shared | test | 4 |" in printed
    published = recipe.folder / "published"
    words_of_it = ["benchmarks/phrases.py", str(run), "--seconds", "1", "--out", str(published)]
    subprocess.run([sys.executable, *words_of_it], cwd=recipe.folder, check=True, env=os.environ | {"PYTHONPATH": "."})
    for file in published.iterdir():
        assert str(tmp_path) not in file.read_text(encoding="utf-8")
    (row,) = json.loads((published / "phrases.json").read_text(encoding="utf-8"))["runs"]
    assert (row["domain"], row["experiment"], len(row["sets"])) == ("oven", "shared", 3)
    assert row["int8_bytes"] > 0 and row["rtf"] > 0 and row["training"]["steps"] > 0 and "--repeats 1" in row["speech"]
    again = recipe.call("egs/phrases/run.sh", *words)
    assert "stage 7: choose what shared rejects: skipped" in again and "runs again" not in again
