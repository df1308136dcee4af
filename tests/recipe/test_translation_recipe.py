"""The recipe of speech translation at toy size: speech is made, a model is trained, two sets are decoded and scored."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lhotse
import pytest
import sacrebleu
from support.toy_recipe import DATA, MODEL, SEARCH, TRAINING, copy_of, sets

from residualformer.data.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

SIZES = {key: value for key, value in MODEL.items() if not key.startswith("tokens.")}


@pytest.fixture(scope="module")
def egs(root, tmp_path_factory) -> Path:
    folder = copy_of(root, tmp_path_factory.mktemp("translation"))
    chosen = ["--python", sys.executable, "--experiments", "shared", "--test-set", "test dev", *DATA]
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RESIDUALFORMER_PYTHON")}
    done = subprocess.run(
        ["egs/mini_st/run.sh", *chosen, *sets(SIZES | TRAINING | SEARCH)],
        cwd=folder, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^set +experiment +search +BLEU", done.stdout, re.MULTILINE)
    return folder / "egs" / "mini_st"


def cuts(egs: Path, split: str) -> dict[str, str]:
    """The translation of each utterance."""
    manifest = lhotse.load_manifest(egs / "data" / "manifests" / f"cuts_{split}.jsonl.gz")
    return {cut.id: cut.supervisions[0].custom["translation"] for cut in manifest}


def test_tokens_are_the_characters_of_the_translations(egs):
    tokenizer = Tokenizer.load(egs / "data" / "lang" / "tokenizer.json")
    assert set(tokenizer.pieces[2:]) == set("".join(cuts(egs, "train").values()))
    for text in cuts(egs, "train").values():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_both_sets_are_scored_by_bleu(egs):
    rows = {row["split"]: row for row in json.loads((egs / "exp" / "results.json").read_text(encoding="utf-8"))["rows"]}
    assert list(rows) == ["test", "dev"]
    for split, row in rows.items():
        file = egs / "exp" / "shared" / f"decode_{split}_beam4" / "hyp.jsonl"
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert {record["id"]: record["ref"] for record in records} == cuts(egs, split)
        hypotheses, references = ([record[key] for record in records] for key in ("hyp", "ref"))
        bleu = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh")
        assert row["bleu"]["value"] == pytest.approx(bleu.score, abs=0.005) and "wer" not in row
    assert "| test | shared | beam4 | " in (egs / "exp" / "RESULTS.md").read_text(encoding="utf-8")
    assert (egs / "exp" / "bleu_vs_params.png").stat().st_size > 0


def test_the_training_told_bleu(egs):
    metrics = [json.loads(line) for line in (egs / "exp" / "shared" / "metrics.jsonl").read_text().splitlines()]
    assert any("valid/greedy_bleu" in record for record in metrics)
    assert not any("valid/greedy_wer" in record for record in metrics)
