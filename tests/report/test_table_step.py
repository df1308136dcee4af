"""Writing a paper's table from decoding runs."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.paper_runs import UTTERANCES, cell, write_run

from residualformer.files import write_json, write_text
from residualformer.report import plots
from residualformer.report.paper_table import PaperTable
from residualformer.report.paper_text import render, show_picture
from residualformer.report.results import Results

ROOT = Path(__file__).resolve().parents[2]


def table_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "steps" / "table.py"), run_name="__main__")


def test_the_step_writes_the_table_and_what_is_in_it(paper_egs, monkeypatch, capsys):
    table_step(monkeypatch, paper_egs, "--table", "3", "--conf", paper_egs / "conf")
    written = PaperTable.read(paper_egs / "exp" / "tables" / "table3.json")
    assert (paper_egs / "exp" / "tables" / "table3.md").read_text(encoding="utf-8") == render(
        written, show_picture(written)
    )
    assert cell(written, "residual").ours.sets["test"].search == "beam16" and written.recipe == "made_up"
    assert "6 of 17 experiments" in capsys.readouterr().out.splitlines()[-1]


def test_the_picture_draws_a_line_for_each_row_and_its_controls(paper_egs, monkeypatch, tmp_path):
    table_step(monkeypatch, paper_egs, "--table", "3", "--conf", paper_egs / "conf")
    assert (paper_egs / "exp" / "tables" / "table3.png").stat().st_size > 10_000
    written = PaperTable.read(paper_egs / "exp" / "tables" / "table3.json")
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, picture: figures.append(figure))
    assert plots.table_lines(written, tmp_path / "x.png")
    containers = figures[0].axes[0].containers
    drawn = {each.get_label(): each.lines[0].get_xydata().tolist() for each in containers}
    ours = cell(written, "residual").ours
    assert drawn["+ residual weights"][0] == [ours.parameters / 1e6, ours.sets["test"].value.value]
    control = cell(written, "residual").control.ours.sets["test"].value.value
    assert drawn["+ residual weights: controls"][0][1] == control
    assert not plots.table_lines(replace(written, rows=[]), tmp_path / "x.png")


def test_a_model_that_is_gone_has_no_place_in_the_picture(tmp_path, monkeypatch):
    for name in ("baseline", "shared"):
        write_run(tmp_path, name)
    (tmp_path / "exp" / "shared" / "model.safetensors").unlink()  # its decoding was kept
    (tmp_path / "conf").mkdir()
    write_text(tmp_path / "conf" / "base.yaml", "")
    table_step(monkeypatch, tmp_path, "--table", "3", "--conf", tmp_path / "conf")
    written = PaperTable.read(tmp_path / "exp" / "tables" / "table3.json")
    assert cell(written, "shared").ours.sets["test"].value.value > 0
    assert (tmp_path / "exp" / "tables" / "table3.png").stat().st_size > 0


def test_each_set_has_the_search_that_the_recipe_asks_for(paper_egs, tmp_path, monkeypatch):
    for split, search in (("test", "beam16"), ("test", "greedy"), ("test_long", "beam16"), ("test_long", "greedy")):
        write_run(tmp_path, "baseline", search, split=split)
    (tmp_path / "conf").mkdir()
    write_text(tmp_path / "conf" / "base.yaml", "decode:\n  greedy_sets: [test_long]\n")
    table_step(monkeypatch, tmp_path, "--table", "3", "--conf", tmp_path / "conf", "--split", "test_long test")
    written = PaperTable.read(tmp_path / "exp" / "tables" / "table3.json")
    scores = cell(written, "baseline").ours.sets
    assert {name: each.search for name, each in scores.items()} == {"test_long": "greedy", "test": "beam16"}
    assert "Search: greedy on test_long, beam16 on test." in (tmp_path / "exp" / "tables" / "table3.md").read_text()


def test_a_search_that_makes_texts_longer_is_told(tmp_path, monkeypatch):
    for split, search in (("test", "beam16"), ("test_long", "greedy")):
        write_run(tmp_path, "baseline", search, split=split)
        file = tmp_path / "exp" / "baseline" / f"decode_{split}_{search}" / "decode.json"
        settings = {"settings": {"token_reward": 1.0, "length_norm": True}}
        write_json(file, json.loads(file.read_text(encoding="utf-8")) | settings)
    write_text(tmp_path / "conf" / "base.yaml", "decode:\n  greedy_sets: [test_long]\n")
    table_step(monkeypatch, tmp_path, "--table", "3", "--conf", tmp_path / "conf", "--split", "test_long test")
    text = (tmp_path / "exp" / "tables" / "table3.md").read_text(encoding="utf-8")
    assert "Search: greedy (token_reward 1) on test_long, beam16 (token_reward 1, length_norm) on test." in text


def test_an_experiment_may_have_a_search_of_its_own(tmp_path, monkeypatch):
    for name, search in (("baseline", "beam16"), ("baseline", "beam4"), ("shared", "beam16"), ("shared", "beam4")):
        write_run(tmp_path, name, search)
    for name, text in (("base", ""), ("baseline", "base: base.yaml"), ("shared", "decode: {beam: 4}")):
        write_text(tmp_path / "conf" / f"{name}.yaml", text)
    table_step(monkeypatch, tmp_path, "--table", "3", "--conf", tmp_path / "conf", "--split", "test")
    written = PaperTable.read(tmp_path / "exp" / "tables" / "table3.json")
    found = [cell(written, name).ours.sets["test"].search for name in ("baseline", "shared")]
    assert found == ["beam16", "beam4"]


def test_a_subset_that_is_asked_for_beside_its_set_counts_once_in_the_mean(tmp_path, monkeypatch):
    for split in ("mslt@a", "mslt@b"):
        write_run(tmp_path, "baseline", split=split)
    (tmp_path / "conf").mkdir()
    write_text(tmp_path / "conf" / "base.yaml", "")
    table_step(monkeypatch, tmp_path, "--table", "3", "--conf", tmp_path / "conf", "--split", "mslt mslt@a")
    written = PaperTable.read(tmp_path / "exp" / "tables" / "table3.json")
    scores = cell(written, "baseline").ours.sets
    assert {name: each.utterances for name, each in scores.items()} == {"mslt": 2 * UTTERANCES, "mslt@a": UTTERANCES}


def test_the_sets_are_those_that_were_scored_last(paper_egs, monkeypatch, capsys):
    head = Results(corpus="", split="test, dev", baseline="", command="", commit="", rows=[])
    write_json(paper_egs / "exp" / "results.json", head.to_dict())
    with pytest.raises(SystemExit):
        table_step(monkeypatch, paper_egs, "--table", "3", "--conf", paper_egs / "conf")
    (paper_egs / "exp" / "results.json").unlink()
    assert "no experiment that was decoded on 'dev'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "4"], "table4 is about BLEU, but baseline was scored by WER"),
        (["--table", "3", "--set", "decode.kind=greedy"], "decoded on test (greedy); run stages 4 to 7 first"),
        (["--table", "3", "--split", "dev"], "decoded so far: test"),
        (["--table", "8"], "there is no table '8'"),
    ],
)
def test_what_the_step_refuses(paper_egs, monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        table_step(monkeypatch, paper_egs, "--conf", paper_egs / "conf", *arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err
