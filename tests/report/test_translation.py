"""Scores of translations against sacrebleu, their comparison, and test sets that consist of subsets."""

import json
import random
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import sacrebleu
import torch
from support.toy_training import TEXTS, F, changed

from residualformer.config.loading import config_to_dict
from residualformer.data.tokenizer import train_tokenizer
from residualformer.decode.hypotheses import Hypothesis
from residualformer.files import write_json, write_text
from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.bootstrap import NO_GAP, Gap, mean_over_subsets, paired_p_value, resampled_sums
from residualformer.report.compare import compare
from residualformer.report.paper_text import render
from residualformer.report.papers import find_table
from residualformer.report.reproduce import reproduce
from residualformer.report.results import Results, Row
from residualformer.report.results_text import render_markdown
from residualformer.report.scoring import find_runs, score_run, with_means
from residualformer.train import validation
from residualformer.train.loop import Trainer
from residualformer.train.validation import greedy_scores

STEP = Path(__file__).parents[2] / "steps" / "score.py"
SENTENCES = ["打开厨房的灯", "现在几点了", "明天早上六点叫我", "关掉客厅的电视", "去图书馆怎么走", "给 A B C 打电话"]


def translations(count: int, seed: int, errors: float) -> tuple[list[str], list[str]]:
    """References, and hypotheses of which a share of the characters is wrong."""
    draw = random.Random(seed)
    references = [draw.choice(SENTENCES) + draw.choice(SENTENCES) for _ in range(count)]
    return references, ["".join("错" if draw.random() < errors else c for c in text) for text in references]


def bleu(references: list[str], hypotheses: list[str]) -> float:
    return sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score


def write_run(egs: Path, name: str, split: str, count: int, errors: float, seed: int = 1) -> tuple[list, list]:
    """A decoding run of `split`, of which a share of the characters is wrong; gives references and hypotheses."""
    references = translations(count, len(split), 0)[0]
    draw = random.Random(seed)
    hypotheses = ["".join("错" if draw.random() < errors else c for c in text) for text in references]
    lines = [{"id": f"u{i}", "ref": ref, "hyp": hyp} for i, (ref, hyp) in enumerate(zip(references, hypotheses))]
    run = egs / "exp" / name / f"decode_{split}_beam16"
    write_text(run / "hyp.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_json(run / "decode.json", {"target": "translation", "search": "beam16", "utterances": count, "skipped": []})
    return references, hypotheses


def scored(egs: Path, *sets: str) -> dict[tuple[str, str], Row]:
    runs = with_means([score_run(folder) for folder in find_runs(egs / "exp", sets)])
    return {(row.experiment, row.split): row for row in compare(runs)}


def test_scores_are_those_of_sacrebleu():
    references, hypotheses = translations(60, 1, 0.1)
    measures = bleu_and_chrf(references, hypotheses)
    assert measures["bleu"].value == pytest.approx(bleu(references, hypotheses), rel=1e-12)
    chrf = sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert measures["chrf"].value == pytest.approx(chrf, rel=1e-12)
    score = measures["bleu"].rounded()
    assert score.low < score.value < score.high and "tok:zh" in score.signature
    assert "nc:6" in measures["chrf"].rounded().signature


def test_a_resampled_score_is_that_of_the_repeated_sentences():
    references, hypotheses = translations(12, 2, 0.2)
    times = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12))  # the first sample of the bootstrap
    drawn = [i for i, count in enumerate(times) for _ in range(count)]
    expected = bleu([references[i] for i in drawn], [hypotheses[i] for i in drawn])
    assert bleu_and_chrf(references, hypotheses)["bleu"].samples[0] == pytest.approx(expected, rel=1e-12)


def test_a_lower_bleu_is_a_positive_gap_and_a_clear_one_has_a_small_p():
    references, good = translations(150, 3, 0.05)
    _, bad = translations(150, 3, 0.15)
    better, worse = (bleu_and_chrf(references, hypotheses)["bleu"] for hypotheses in (good, bad))
    gap = worse.gap(better)
    assert gap.relative == pytest.approx(100 * (better.value - worse.value) / better.value, abs=0.005)
    assert gap.relative > 0 > better.gap(worse).relative and gap.p_value == pytest.approx(2 / 2001, abs=1e-4)
    assert better.gap(better) == Gap(relative=0, relative_low=0, relative_high=0, p_value=1)
    nothing = bleu_and_chrf(references, [""] * 150)["bleu"]
    assert better.gap(nothing) == NO_GAP and set(asdict(NO_GAP).values()) == {None}


def test_the_gap_printed_is_the_papers():
    """Table 4: 29.8 -> 26.7 is a gap of 10.4%, and 29.4 -> 28.3 of 3.7%."""
    for base, other, printed in ((29.8, 26.7, 10.4), (29.4, 28.3, 3.7)):
        measures = []
        for value in (base, other):
            measure = bleu_and_chrf(["一二三四"], ["一二三四"])["bleu"]
            measures.append(type(measure)(measure.parts, lambda sums, v=value: np.full(len(sums), v), True))
        assert round(measures[1].gap(measures[0]).relative, 1) == printed


def test_a_set_of_subsets_scores_their_mean_not_what_they_make_together(tmp_path):
    subsets = ("m@dev", 20, 0.3), ("m@test", 80, 0.1)
    parts = {split: write_run(tmp_path, "baseline", split, count, errors) for split, count, errors in subsets}
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
        write_run(tmp_path, "baseline", split, 10, 0.1)
    runs = [score_run(folder) for folder in find_runs(tmp_path / "exp", ["m"])]
    first, second = runs[0], replace(runs[1], measures={"bleu": runs[1].measures["bleu"]})
    mean = with_means([first, second])[-1]
    assert list(mean.measures) == ["bleu"] and "chrf" in first.row.scores and "chrf" not in mean.row.scores


def test_a_run_that_lacks_a_subset_has_no_mean(tmp_path):
    for split in ("m@a", "m@b", "m@c"):
        write_run(tmp_path, "baseline", split, 10, 0.1)
        if split != "m@c":
            write_run(tmp_path, "shared", split, 10, 0.1)
    rows = scored(tmp_path, "m")
    assert ("baseline", "m") in rows and ("shared", "m@b") in rows and ("shared", "m") not in rows
    assert ("shared", "m") in scored(tmp_path, "m@a", "m@b")  # of those that are asked for it has all


def test_a_papers_table_of_bleu(tmp_path):
    """More is better: the gap of the worse is positive, and what is better holds."""
    for name, errors in (("baseline", 0.1), ("shared", 0.2), ("shallow6", 0.3)):
        write_run(tmp_path, name, "covost", 80, errors)
    runs = {(run.row.experiment, "covost"): run for run in map(score_run, find_runs(tmp_path / "exp", ["covost"]))}
    values = {name: run.row.scores["bleu"].value for (name, _), run in runs.items()}
    result = reproduce(find_table(STEP.parents[1] / "conf" / "tables", "2"), runs, ["covost"])
    text = render(result)
    gap = result.measured()["shared"].sets["covost"].gap.relative
    assert 0 < gap == pytest.approx(100 * (values["baseline"] - values["shared"]) / values["baseline"], abs=0.05)
    expected = f"`shared` {values['shared']:.2f} against `shallow6` {values['shallow6']:.2f} ("
    assert f"sharing beats the shallow model of equal size**: appears (3 not measured). {expected}" in text
    assert "% better, p 0.001: holds; paper 26.7 against 22.3)" in text
    assert "judged on covost; the paper's values beside them are of CoVoST." in text and "tok:zh" in text


def test_the_mean_is_resampled_within_each_subset():
    pairs = [translations(n, seed, 0.2) for n, seed in ((15, 1), (25, 2))]
    parts = [bleu_and_chrf(*pair)["bleu"] for pair in pairs]
    mean = mean_over_subsets(parts)
    second = parts[1].score(resampled_sums(parts[1].parts[0], seed=1))  # drawn on its own, not as the first
    np.testing.assert_allclose(mean.samples, (parts[0].samples + second) / 2, rtol=1e-12)
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]), rel=1e-12)
    assert mean.details == parts[0].details and paired_p_value(mean, mean) == 1


def test_sets_are_compared_each_with_its_own_baseline_and_share_a_table(tmp_path):
    for name, errors in (("baseline", 0.1), ("shared", 0.2)):
        for split in ("covost", "m@dev", "m@test", "dev", "covost_long"):
            write_run(tmp_path, name, split, 60, errors, seed=len(split) + len(name))
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


def score_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
    runpy.run_path(str(STEP), run_name="__main__")


def test_the_step_writes_one_table_of_all_sets(tmp_path, monkeypatch, capsys):
    for split in ("covost", "m@dev", "m@test"):
        write_run(tmp_path, "baseline", split, 20, 0.1)
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


def test_a_training_tells_bleu_of_a_translation(toy_cuts, tmp_path, monkeypatch):
    config = changed("tokens", kind="char", target="translation")
    texts = ["".join(chr(ord(c) + 0x4E00) for c in text if c != " ") for text in TEXTS]  # as make_cut's
    tokenizer = train_tokenizer(texts, config.tokens)
    told = max(texts, key=len)
    found = Hypothesis(tokenizer.encode(told), [], 0.0)
    monkeypatch.setattr(validation, "greedy_search", lambda model, encoded, lengths, **_: [found] * len(lengths))
    cmvn = torch.zeros(F), torch.ones(F)
    values = Trainer(config, tokenizer, toy_cuts, cmvn, tmp_path, {"config": config_to_dict(config)}).validate()
    references = [text for text in texts if text]
    assert values["greedy_bleu"] == pytest.approx(bleu(references, [told] * len(references)), rel=1e-9) and told
    assert values["greedy_bleu"] > 0 and values["transducer_per_token"] > 0 and "greedy_wer" not in values


def test_a_training_tells_both_error_rates_of_a_transcript():
    references, hypotheses = ["one two", "three"], ["one too", "three four"]
    wer, cer = (100 * rate(references, hypotheses) for rate in (jiwer.wer, jiwer.cer))
    assert greedy_scores(references, hypotheses, "text") == pytest.approx({"greedy_wer": wer, "greedy_cer": cer})
