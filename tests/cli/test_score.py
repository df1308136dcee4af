"""`residualformer score`: error rates of recordings in a table."""

from __future__ import annotations

import argparse
import json

import jiwer
import pytest
import soundfile
from support.exported import exported, random_bundle, utterances

import residualformer
from residualformer.cli.score import add_arguments, read_table, run
from residualformer.errors import UserError

TEXTS = ["abc", "de abc", "b", "a"]


def score(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def table(tmp_path):
    for number, samples in enumerate(utterances()):
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000, subtype="FLOAT")
    rows = [f"{number}.wav\t{text}" for number, text in enumerate(TEXTS)]
    (tmp_path / "said.tsv").write_text("\n".join(["path\ttext", *rows, "gone.wav\tc c", ""]))
    return tmp_path / "said.tsv"


@pytest.mark.parametrize("options", [["--greedy"], ["--beam", 3, "--int8"]])
def test_the_rates_are_those_of_what_is_heard(table, tmp_path, capsys, options):
    folder = exported(random_bundle("lstm", "lstm", "sherpa"), "nemo", tmp_path / "export", int8=True)
    score(table, "--model", folder, *options, "--json")
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    model = residualformer.load(folder, int8="--int8" in options, beam=3 if "--beam" in options else None)
    heard = [" ".join(model.transcribe(samples, 16000).text.split()) for samples in utterances()] + [""]
    said = [*TEXTS, "c c"]
    assert (found["utterances"], found["missing"]) == (5, 1) and "gone.wav" in printed.err
    assert found["wer"]["value"] == pytest.approx(100 * jiwer.wer(said, heard), abs=0.005)
    assert found["cer"]["value"] == pytest.approx(100 * jiwer.cer(said, heard), abs=0.005)
    score(table, "--model", folder, *options)
    assert f"WER {found['wer']['value']} (95% interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.wav\n", "line 1 has 1 cells"),
        ("path\ttext\na.wav\tb\tc\n", "line 2 has 3 cells"),
        ("", "holds no transcript"),
        ("a.wav\t \n", "holds no transcript"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, words):
    (tmp_path / "said.tsv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "said.tsv")


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    folder = exported(random_bundle("lstm", "lstm", "sherpa"), "nemo", tmp_path / "export")
    (tmp_path / "said.tsv").write_text("gone.wav\ta b\n")
    with pytest.raises(UserError, match="no recording could be read"):
        score(tmp_path / "said.tsv", "--model", folder)
