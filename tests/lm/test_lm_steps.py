"""The steps that train and measure language models."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut, SupervisionSegment

from residualformer.config.schema import TokenConfig
from residualformer.data.tokenizer import train_tokenizer
from residualformer.workflow.recipe import Recipe

TEXTS = ["aba", "ab ab", "ba ab aba", "ab"]


@pytest.fixture
def data(tmp_path):
    """Manifests, tokens and a configuration."""
    (tmp_path / "manifests").mkdir()
    for split, texts in (("train", TEXTS), ("dev", TEXTS[:2])):
        cuts = []
        for number, text in enumerate(texts):
            said = SupervisionSegment(f"{split}{number}", f"{split}{number}", 0, 1, text=text)
            cuts.append(MonoCut(f"{split}{number}", 0, 1, 0, [said]))
        CutSet.from_cuts(cuts).to_file(tmp_path / "manifests" / f"cuts_{split}.jsonl.gz")
    train_tokenizer(TEXTS, TokenConfig(kind="char")).save(tmp_path / "lang" / "tokenizer.json")
    (tmp_path / "base.yaml").write_text("tokens:\n  kind: char\n", encoding="utf-8")
    return tmp_path


def step(monkeypatch, name, *arguments):
    path = Path(__file__).parents[2] / "steps" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def train(monkeypatch, data, *sets):
    options = [word for each in sets for word in ("--set", each)]
    folders = ["--manifests", data / "manifests", "--lang", data / "lang", "--out", data / "lm"]
    step(monkeypatch, "train_lm", *folders, "--config", data / "base.yaml", *options)


KINDS = {
    "token": ["lm.kind=ngram", "lm.order=3"],
    "word": ["lm.kind=ngram", "lm.unit=word", "lm.order=2"],
    "lstm": ["lm.kind=lstm", "lm.hidden_dim=4", "lm.embedding_dim=4", "lm.max_epochs=2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_is_trained_and_measured(monkeypatch, data, capsys, kind):
    train(monkeypatch, data, *KINDS[kind])
    assert "dev: perplexity" in capsys.readouterr().out
    told = json.loads((data / "lm" / "lm.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in (data / "lm").iterdir()) == sorted([told["file"], "lm.json"])
    (data / "text.txt").write_text("\n".join(TEXTS[:2]) + "\n\n", encoding="utf-8")
    step(monkeypatch, "perplexity", data / "lm" / told["file"], "--lang", data / "lang", "--text", data / "text.txt")
    found = capsys.readouterr().out
    assert f"perplexity {told['dev_perplexity']['per_token']:.3f} per token" in found
    assert "(2 sentences, 3 words, 8 tokens)" in found


def test_text_beside_the_transcripts_or_alone(monkeypatch, data, capsys):
    (data / "more.txt").write_text("ab\n\nzz\n", encoding="utf-8")
    for alone, sentences in ((False, 6), (True, 2)):
        sets = [f"lm.text=[{data / 'more.txt'}]", f"lm.transcripts={'false' if alone else 'true'}"]
        train(monkeypatch, data, "lm.kind=ngram", *sets)
        assert f"ngram of {sentences} sentences" in capsys.readouterr().out


REFUSED = {
    "there is no language model to train": [],
    "lm.text is empty": ["lm.kind=ngram", "lm.transcripts=false"],
    "lm.order is 7": ["lm.kind=lstm", "lm.order=7"],
    "is missing: give a text file": ["lm.kind=ngram", "lm.text=[none.txt]"],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_refused(monkeypatch, data, capsys, sentence):
    with pytest.raises(SystemExit):
        train(monkeypatch, data, *REFUSED[sentence])
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_one_line_is_refused(monkeypatch, data, capsys):
    (data / "book.txt").write_text("ab\n" + "ab " * 5000, encoding="utf-8")
    with pytest.raises(SystemExit):
        train(monkeypatch, data, "lm.kind=ngram", f"lm.text=[{data / 'book.txt'}]")
    assert "book.txt, line 2 has 14999 characters; allowed are 10000: give a text" in capsys.readouterr().err


def test_a_dev_set_without_text_is_refused(monkeypatch, data, capsys):
    (data / "manifests" / "cuts_dev.jsonl.gz").unlink()
    silent = MonoCut("dev0", 0, 1, 0, [SupervisionSegment("dev0", "dev0", 0, 1, text=" ")])
    CutSet.from_cuts([silent]).to_file(data / "manifests" / "cuts_dev.jsonl.gz")
    with pytest.raises(SystemExit):
        train(monkeypatch, data, "lm.kind=ngram")
    assert "cuts_dev.jsonl.gz has no text to measure a model on" in capsys.readouterr().err


def test_a_recipe_trains_one_where_its_base_says_so(tmp_path, data):
    base = tmp_path / "base.yaml"
    assert Recipe(tmp_path, tmp_path / "egs").language_model() is None
    text = tmp_path / "text.txt"
    text.write_text("ab\n", encoding="utf-8")
    base.write_text(f"tokens: {{kind: char}}\nlm: {{kind: ngram, text: [{text}]}}\n", encoding="utf-8")
    found = Recipe(tmp_path, tmp_path / "egs").language_model()
    assert found.number == 3
    assert found.out == tmp_path / "egs" / "data" / "lm"
    assert found.values["lm.kind"] == "ngram"
    before = found.inputs
    text.write_text("abab\n", encoding="utf-8")
    assert Recipe(tmp_path, tmp_path / "egs").language_model().inputs != before  # another text trains again
