"""Stage 8 on made-up decoding runs: the files that it writes."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from support.decoded_runs import PARAMETERS, sentences, write_run, write_translation
from support.transducers import save_random_run

from residualformer.files import write_text
from residualformer.report.results import Results
from residualformer.report.results_text import aligned, render_markdown, show_pictures

STEP = Path(__file__).parents[2] / "steps" / "score.py"


def score_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
    runpy.run_path(str(STEP), run_name="__main__")


def test_the_step_writes_everything_and_the_same_again(tmp_path, monkeypatch, capsys):
    egs = tmp_path / "corpus"
    for name, seed in (("baseline", 2), ("residual", 3)):
        save_random_run(egs / "exp" / name, info={"parameters": PARAMETERS, "seed": 5, "wall_s": 61.0, "other": 1})
        folder = write_run(egs, name, sentences(30, seed))
        write_text(
            egs / "exp" / name / "metrics.jsonl",
            '{"step": 1, "train/transducer_per_token": 3.0, "train/lr": 0.1}\n{"step": 2, "valid/greedy_wer": 50.0}\n',
        )
    score_step(monkeypatch, egs)
    printed = capsys.readouterr().out
    assert aligned(Results.read(egs / "exp" / "results.json")) in printed
    row = json.loads((folder / "score.json").read_text(encoding="utf-8"))
    assert row["parameters"] == PARAMETERS and row["training"] == {"seed": 5, "wall_s": 61.0}
    written = json.loads((egs / "exp" / "results.json").read_text(encoding="utf-8"))
    assert written["rows"][1] == row and row["relative"] is not None
    results, shown = Results.read(egs / "exp" / "results.json"), show_pictures([egs / "exp" / "wer_vs_params.png"])
    assert results.to_dict() == written
    assert (egs / "exp" / "RESULTS.md").read_text(encoding="utf-8") == render_markdown(results, shown)
    for picture in (egs / "exp" / "wer_vs_params.png", egs / "exp" / "residual" / "training.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    score_step(monkeypatch, egs)
    assert json.loads((egs / "exp" / "results.json").read_text(encoding="utf-8")) == written


def test_another_split_leaves_the_results_of_the_test_set_alone(tmp_path, monkeypatch):
    write_run(tmp_path, "baseline", sentences(5, 1))
    score_step(monkeypatch, tmp_path)
    before = (tmp_path / "exp" / "results.json").read_bytes()
    (tmp_path / "exp/baseline/decode_test_beam16").rename(tmp_path / "exp/baseline/decode_dev_beam16")
    score_step(monkeypatch, tmp_path, "--split", "dev")
    assert (tmp_path / "exp" / "results.json").read_bytes() == before
    assert json.loads((tmp_path / "exp" / "results_dev.json").read_text(encoding="utf-8"))["split"] == "dev"
    assert "# Results: " in (tmp_path / "exp" / "RESULTS_dev.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "is not a folder"),
        ([".", "--baseline", "x"], "run stage 7 first"),
        ([".", "--splt", "dev"], "--splt"),
    ],
)
def test_what_the_step_refuses(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        score_step(monkeypatch, *arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_step_writes_one_table_of_all_sets(tmp_path, monkeypatch, capsys):
    for split in ("covost", "m@dev", "m@test"):
        write_translation(tmp_path, "baseline", split, 20, 0.1)
    score_step(monkeypatch, tmp_path, "--split", "covost m")
    assert "4 rows of covost, m ->" in capsys.readouterr().out
    written = json.loads((tmp_path / "exp" / "results.json").read_text(encoding="utf-8"))
    assert [row["split"] for row in written["rows"]] == ["covost", "m", "m@dev", "m@test"]
    run = tmp_path / "exp" / "baseline"
    assert sorted(path.parent.name for path in run.glob("*/score.json")) == [
        "decode_covost_beam16", "decode_m@dev_beam16", "decode_m@test_beam16",
    ]  # fmt: skip
    assert (tmp_path / "exp" / "RESULTS.md").read_text(encoding="utf-8") == render_markdown(
        Results.read(tmp_path / "exp" / "results.json")
    )
