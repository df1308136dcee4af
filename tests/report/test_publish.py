"""Publishing: rows of other experiments stay, those of the run come in, and nothing is lost unsaid."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from residualformer.files import write_json, write_text
from residualformer.metrics.bootstrap import Score
from residualformer.report.paper_table import PaperTable
from residualformer.report.publish import draw, merge_results, prepare, write
from residualformer.report.results import NO_COMPARISON, Decoding, Results, Row, Training

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "results"
PNG = b"\x89PNG"
COMPARED = replace(NO_COMPARISON, relative=10.0, p_value=0.2)


def row(experiment: str, wer: float = 10.0, fingerprint: str = "a", split: str = "test", **changes) -> Row:
    score = Score(value=wer, low=wer - 1, high=wer + 1, insertions=1, deletions=2, substitutions=3)
    values = dict(
        experiment=experiment, run=f"decode_{split}_beam4", split=split, search="beam4", metric="WER", utterances=9,
        missing=0, words=90, scores={"wer": score}, parameters={"transformer": 1000},
        training=Training(fingerprint=fingerprint), baseline="baseline",
        comparison=NO_COMPARISON if experiment == "baseline" else COMPARED,
    )  # fmt: skip
    return Row(**values | changes)


def results(*rows: Row, commit: str = "new", split: str = "test") -> Results:
    return Results(
        corpus="r", split=split, baseline="baseline", command="local/score.sh r", commit=commit, rows=[*rows]
    )


def by_name(merged: Results) -> dict[tuple[str, str], Row]:
    return {(row.experiment, row.split): row for row in merged.rows}


def test_rows_of_other_experiments_stay_and_say_who_scored_them():
    old = results(row("baseline"), row("shared"), row("residual"), commit="old")
    merged, changes = merge_results(old, results(row("baseline"), row("residual", 9.0, "b"), row("deep", 8.0)))
    assert [row.experiment for row in merged.rows] == ["baseline", "shared", "residual", "deep"]
    found = by_name(merged)
    assert found["shared", "test"] == replace(row("shared"), scored="`local/score.sh r` at commit old")
    assert found["residual", "test"] == row("residual", 9.0, "b") and merged.commit == "new"
    assert "replaced residual (test, beam4): WER 10.0 -> WER 9.0" in changes and "kept shared" in changes
    assert "added deep (test, beam4): WER 8.0" in changes
    again, _ = merge_results(merged, results(row("baseline"), commit="third"))
    assert by_name(again)["shared", "test"].scored == "`local/score.sh r` at commit old"


def test_a_comparison_with_a_baseline_that_changed_is_dropped():
    old = results(row("baseline"), row("shared"), commit="old")
    same, changes = merge_results(old, results(row("baseline", 10.0, "b")))
    assert by_name(same)["shared", "test"].comparison == COMPARED and len(changes) == 2
    other, changes = merge_results(old, results(row("baseline", 12.0, "b"), row("residual")))
    assert by_name(other)["shared", "test"].comparison == NO_COMPARISON
    assert by_name(other)["residual", "test"].comparison == COMPARED
    assert "shared (test, beam4) is no longer compared with baseline, which changed" in changes


def test_a_set_on_which_the_new_model_was_not_decoded_is_dropped():
    old = results(row("baseline"), row("baseline", split="long"), row("shared", split="long"), split="test, long")
    same, _ = merge_results(old, results(row("baseline")))
    assert list(by_name(same)) == [("baseline", "test"), ("baseline", "long"), ("shared", "long")]
    assert same.split == "test, long"
    other, changes = merge_results(old, results(row("baseline", fingerprint="b")))
    assert list(by_name(other)) == [("baseline", "test"), ("shared", "long")]
    assert "dropped baseline (long, beam4): it was trained again, but not decoded there" in changes
    assert by_name(other)["shared", "long"].comparison == NO_COMPARISON


@pytest.mark.parametrize("recipe", ["mini", "an4", "mini_deep_st"])
def test_to_publish_the_same_again_changes_nothing_but_who_scored(tmp_path, recipe):
    published = Results.read(PUBLISHED / recipe / "results.json")
    merged, changes = merge_results(published, published)
    kept = list(dict.fromkeys(row.experiment for row in published.rows if row.scored))  # of an earlier publication
    assert merged == published
    told = [f"kept {', '.join(kept)}"] if kept else []
    assert [change for change in changes if not change.startswith("replaced")] == told
    part = replace(published, rows=published.rows[:2], commit="x")
    merged, _ = merge_results(published, part)
    assert [replace(row, scored=None) for row in merged.rows] == [replace(row, scored=None) for row in published.rows]


@pytest.fixture
def egs(tmp_path) -> Path:
    """A run of recipe `r`, with a table and pictures."""
    exp = tmp_path / "egs" / "r" / "exp"
    write_json(exp / "results.json", results(row("baseline"), row("residual", 9.0)).to_dict())
    write_text(exp / "training.png", "picture")
    table = PaperTable.read(PUBLISHED / "mini_deep" / "tables" / "table1.json")
    write_json(exp / "tables" / "table1.json", table.to_dict())
    return tmp_path / "egs"


def publish_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "steps" / "publish.py"), run_name="__main__")


def test_the_step_writes_once_and_lists_what_it_does(egs, tmp_path, monkeypatch, capsys):
    to = tmp_path / "docs"
    publish_step(monkeypatch, "r", "--egs", egs, "--to", to, "--dry-run")
    told = capsys.readouterr().out.splitlines()
    assert {"added residual (test, beam4): WER 9.0", "added table1"} <= set(told) and not to.exists()
    publish_step(monkeypatch, "r", "--egs", egs, "--to", to)
    assert Results.read(to / "r" / "results.json") == Results.read(egs / "r" / "exp" / "results.json")
    text = (to / "r" / "RESULTS.md").read_text(encoding="utf-8")
    assert "](training.png)" in text and "`local/publish.sh r --draw DIR`" in text and "branches.png" not in text
    assert sorted(path.name for path in (to / "r").rglob("*") if path.is_file()) == [
        "RESULTS.md", "results.json", "table1.json", "table1.md", "training.png",
    ]  # fmt: skip
    assert "--draw DIR`" in (to / "r" / "tables" / "table1.md").read_text(encoding="utf-8")
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    publish_step(monkeypatch, "r", "--egs", egs, "--to", to)
    assert before == {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}


def test_tables_and_pictures_that_show_less_than_the_published_are_kept(egs, tmp_path):
    exp, folder = egs / "r" / "exp", tmp_path / "docs" / "r"
    write_json(folder / "results.json", results(row("baseline"), row("shared")).to_dict())
    write_text(folder / "training.png", "old")
    table = json.loads((exp / "tables" / "table1.json").read_text(encoding="utf-8"))
    write_json(folder / "tables" / "table1.json", table)
    table["rows"][0]["cells"][1]["ours"] = None
    write_json(exp / "tables" / "table1.json", table)
    publication = prepare(exp, folder, tmp_path)
    assert publication.tables == [] and publication.pictures == []
    lost = table["rows"][0]["cells"][1]["experiment"]
    assert f"kept the published table1: the run's lacks {lost}" in publication.changes
    assert "kept the published training.png: the run's lacks shared" in publication.changes
    write(publication, folder)
    assert (folder / "training.png").read_text() == "old" and "training.png" in (folder / "RESULTS.md").read_text()


def test_commands_name_no_folder_of_this_machine(egs, tmp_path):
    exp = egs / "r" / "exp"
    trained = Training(command=f"python steps/train.py --warm-start {tmp_path}/egs/a --exp /a{tmp_path}/b")
    made = replace(row("baseline"), training=trained, decoding=Decoding(command=f"steps/decode.py {tmp_path}/egs/r"))
    write_json(exp / "results.json", results(made).to_dict())
    (found,) = prepare(exp, tmp_path / "docs" / "r", tmp_path).results.rows
    assert found.training.command == f"python steps/train.py --warm-start egs/a --exp /a{tmp_path}/b"
    assert found.decoding.command == "steps/decode.py egs/r"


def test_a_picture_of_a_table_that_is_published_is_drawn_again(egs, tmp_path):
    folder = tmp_path / "docs" / "r"
    write_text(folder / "tables" / "table1.png", "old")
    write(prepare(egs / "r" / "exp", folder, tmp_path), folder)
    assert (folder / "tables" / "table1.png").read_bytes().startswith(PNG)
    assert "](table1.png)" in (folder / "tables" / "table1.md").read_text(encoding="utf-8")


def test_pictures_are_drawn_from_what_is_published(tmp_path):
    names = [path.name for path in draw(PUBLISHED / "mini", tmp_path)]
    assert names == ["wer_vs_params.png", "amnets.png"] == sorted(names, reverse=True)
    assert all((tmp_path / each).read_bytes().startswith(PNG) for each in names)


def test_the_shell_command_is_the_step(egs, tmp_path):
    environment = os.environ | {"RESIDUALFORMER_PYTHON": sys.executable}
    command = ["bash", "local/publish.sh", "r", "--egs", str(egs), "--to", str(tmp_path / "docs")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"publish: 2 rows are in {tmp_path / 'docs' / 'r'}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "holds no results.json: run stage 8 first"),
        (["none", "--draw", "x"], "nothing is published of 'none'"),
    ],
)
def test_what_the_step_refuses(egs, tmp_path, monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        publish_step(monkeypatch, *arguments, "--egs", egs, "--to", tmp_path / "docs")
    assert ended.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
