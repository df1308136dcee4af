"""Which runs are compared, and with what."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.decoded_runs import sentences, write_run, write_translation

from residualformer.files import write_text
from residualformer.report.compare import compare
from residualformer.report.results import Results, Row
from residualformer.report.results_text import render_markdown
from residualformer.report.scoring import find_runs, score_run, with_means


def test_the_gap_is_to_the_same_search_on_the_same_utterances(tmp_path):
    good, bad = [text or "ten" for text in sentences(40, 1)], sentences(40, 2)
    write_run(tmp_path, "baseline", good[:30] + bad[30:])
    write_run(tmp_path, "worse", good[:20] + bad[20:])
    write_run(tmp_path, "worse", good, folder="decode_test_greedy")
    write_run(tmp_path, "fewer", good[:30])
    scored = [score_run(folder) for folder in find_runs(tmp_path / "exp", ["test"])]
    runs = {(run.row.experiment, run.row.run): run for run in scored}
    rows = {(row.experiment, row.run): row.comparison for row in compare(list(runs.values()), "baseline")}
    base, worse = (runs[name, "decode_test_beam16"].measures["wer"].value for name in ("baseline", "worse"))
    assert rows["worse", "decode_test_beam16"].relative == round(100 * (worse - base) / base, 2)
    assert rows["worse", "decode_test_beam16"].p_value < 0.05
    for other in [("baseline", "decode_test_beam16"), ("worse", "decode_test_greedy"), ("fewer", "decode_test_beam16")]:
        assert rows[other].relative is None and rows[other].p_value is None


def test_no_gap_between_other_references_or_other_settings_of_a_search(tmp_path):
    """The folder's name tells neither; `case=lower` or `decode.blank_penalty=1` for one experiment alone is enough."""
    texts = [text or "ten" for text in sentences(30, 1)]
    settings = {"kind": "beam", "beam": 16, "max_symbols": 5, "blank_penalty": 0.0, "nbest": 4, "max_batch_s": 200.0}
    for name, changed in {
        "baseline": {}, "same": {"nbest": 1, "max_batch_s": 9.0}, "penalty": {"blank_penalty": 1.0},
        "symbols": {"max_symbols": 2}, "mended": {},
    }.items():  # fmt: skip
        run = write_run(tmp_path, name, ["one", *texts[1:]], settings=settings | changed)
    assert run.parent.name == "mended"
    write_text(run / "hyp.jsonl", (run / "hyp.jsonl").read_text().replace('"ref": "ten', '"ref": "eleven', 1))
    rows = compare([score_run(folder) for folder in find_runs(tmp_path / "exp", ["test"])])
    assert [row.experiment for row in rows if row.comparison.relative is not None] == ["same"]


def scored(egs: Path, *sets: str) -> dict[tuple[str, str], Row]:
    runs = with_means([score_run(folder) for folder in find_runs(egs / "exp", sets)])
    return {(row.experiment, row.split): row for row in compare(runs)}


def test_sets_are_compared_each_with_its_own_baseline_and_share_a_table(tmp_path):
    for name, errors in (("baseline", 0.1), ("shared", 0.2)):
        for split in ("covost", "m@dev", "m@test", "dev", "covost_long"):
            write_translation(tmp_path, name, split, 60, errors, seed=len(split) + len(name))
    rows = scored(tmp_path, "covost", "m")
    splits = "covost", "m", "m@dev", "m@test"
    assert list(rows) == [(name, split) for split in splits for name in ("baseline", "shared")]
    for split in ("covost", "m", "m@dev"):
        base, other = (rows[name, split].scores["bleu"].value for name in ("baseline", "shared"))
        assert rows["shared", split].comparison.relative == pytest.approx(100 * (base - other) / base, abs=0.05)
        assert rows["shared", split].comparison.p_value < 0.05
        assert rows["baseline", split].comparison.p_value is None
    head = dict(corpus="st", split="covost, m", baseline="baseline", command="score", commit="c")
    text = render_markdown(Results(**head, rows=list(rows.values())))
    assert "| set | experiment | search | BLEU [95%] | chrF [95%] | vs baseline | p |" in text and "WER" not in text
    assert "m (mean over m@dev, m@test): 120 utterances; m@dev: 60 utterances" in text
    assert "relative difference to the BLEU of `baseline`" in text and "tok:zh" in text and "| m@dev | shared |" in text
    assert list(scored(tmp_path, "m@dev")) == [("baseline", "m@dev"), ("shared", "m@dev")]
