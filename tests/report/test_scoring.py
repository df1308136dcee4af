"""From a decoding run to its row, and the means over the subsets of a test set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from support.decoded_runs import sentences, write_run, write_translation

from residualformer.errors import UserError
from residualformer.files import write_json
from residualformer.report.compare import compare
from residualformer.report.results import Row
from residualformer.report.scoring import find_runs, score_run, with_means


def test_a_skipped_utterance_counts_as_all_deleted(tmp_path):
    hypotheses = [text or "ten" for text in sentences(20, 1)]
    row = score_run(write_run(tmp_path, "model", hypotheses, skipped=3)).row
    lost = sum(len((text or "ten").split()) for text in sentences(23, 1)[20:])
    assert (row.utterances, row.missing, row.scores["wer"].deletions) == (23, 3, lost)
    assert row.scores["wer"].value == round(100 * lost / row.words, 2)


def test_an_unknown_baseline_or_split_or_a_broken_file_is_named(tmp_path):
    run = write_run(tmp_path, "shared", ["one"])
    with pytest.raises(UserError, match="Did you mean 'shared'"):
        compare([score_run(run)], "share")
    assert compare([score_run(run)])[0].comparison.relative is None
    with pytest.raises(UserError, match="decoded so far: test"):
        find_runs(tmp_path / "exp", ["test", "dev"])
    with pytest.raises(UserError, match="run stage 7 first"):
        find_runs(tmp_path / "none", ["dev"])
    (run / "hyp.jsonl").write_text('{"id": "a", "ref": "b", "hyp": "c"}\n{"id": "a"\n')
    with pytest.raises(UserError, match="hyp.jsonl, line 2"):
        score_run(run)
    (run / "hyp.jsonl").write_text("")
    with pytest.raises(UserError, match="holds 0 utterances, but 1 were decoded"):
        score_run(run)
    write_json(run / "decode.json", {"utterances": 0, "skipped": []})
    with pytest.raises(UserError, match="holds no utterance"):
        score_run(run)
    for damaged in (
        {"utterances": 0},
        {"utterances": 0, "skipped": ["a"]},
        {"utterances": 0, "skipped": [{"id": "a", "ref": None}]},
    ):
        write_json(run / "decode.json", damaged)
        with pytest.raises(UserError, match="does not list the utterances that decoding skipped"):
            score_run(run)
    (run / "hyp.jsonl").write_text('{"id": "a", "ref": "b", "hyp": "c"}\n')
    write_json(run / "decode.json", {"utterances": 1, "skipped": [], "branches": {"mflop": "2"}})
    with pytest.raises(UserError, match=r"branches.mflop '2'; it must be a number: run stage 7 again"):
        score_run(run)
    (run / "decode.json").unlink()
    with pytest.raises(UserError, match="decode.json"):
        score_run(run)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ref", None, "ref must be text, not None"),
        ("hyp", 7, "hyp must be text, not 7"),
        ("ref_nats", "3", "ref_nats must be a number"),
        ("ref_nats", float("nan"), "ref_nats must be a number"),
        ("ref_tokens", [1], "ref_tokens must be a whole number"),
        ("branches", [0, 1], "branches must be text"),
    ],
)
def test_a_value_of_another_type_in_a_record_is_named(tmp_path, key, value, words):
    run = write_run(tmp_path, "base", ["one"])
    record = {"id": "u0", "ref": "one", "hyp": "one", "ref_nats": 1.5, "ref_tokens": 3} | {key: value}
    (run / "hyp.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"hyp.jsonl, line 1 is not a record .*{words}.*: run stage 7 again"):
        score_run(run)


def bleu(references: list[str], hypotheses: list[str]) -> float:
    return sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score


def scored(egs: Path, *sets: str) -> dict[tuple[str, str], Row]:
    runs = with_means([score_run(folder) for folder in find_runs(egs / "exp", sets)])
    return {(row.experiment, row.split): row for row in compare(runs)}


def test_a_set_of_subsets_scores_their_mean_not_what_they_make_together(tmp_path):
    subsets = ("m@dev", 20, 0.3), ("m@test", 80, 0.1)
    parts = {split: write_translation(tmp_path, "baseline", split, count, errors) for split, count, errors in subsets}
    rows = scored(tmp_path, "m")
    each = [bleu(*part) for part in parts.values()]
    row = rows["baseline", "m"]
    assert row.scores["bleu"].value == pytest.approx(np.mean(each), abs=0.005)
    assert (row.subsets, row.utterances, row.run) == (["m@dev", "m@test"], 100, "decode_m_beam16")
    together = bleu(*(sum(texts, []) for texts in zip(*parts.values())))
    assert abs(row.scores["bleu"].value - together) > 1
    assert [rows["baseline", split].scores["bleu"].value for split in parts] == pytest.approx(each, abs=0.005)


def test_what_is_not_known_of_a_subset_is_not_told_of_the_set(tmp_path):
    for split in ("m@dev", "m@test"):
        write_translation(tmp_path, "baseline", split, 10, 0.1)
    runs = [score_run(folder) for folder in find_runs(tmp_path / "exp", ["m"])]
    first, second = runs[0], replace(runs[1], measures={"bleu": runs[1].measures["bleu"]})
    mean = with_means([first, second])[-1]
    assert list(mean.measures) == ["bleu"] and "chrf" in first.row.scores and "chrf" not in mean.row.scores


def test_a_run_that_lacks_a_subset_has_no_mean(tmp_path):
    for split in ("m@a", "m@b", "m@c"):
        write_translation(tmp_path, "baseline", split, 10, 0.1)
        if split != "m@c":
            write_translation(tmp_path, "shared", split, 10, 0.1)
    rows = scored(tmp_path, "m")
    assert ("baseline", "m") in rows and ("shared", "m@b") in rows and ("shared", "m") not in rows
    assert ("shared", "m") in scored(tmp_path, "m@a", "m@b")  # of those that are asked for it has all
