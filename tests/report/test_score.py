"""Error rates against a plain edit distance, the bootstrap against theory, and the files that scoring writes."""

import json
import math
import random
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from decode_models import save_random_run

from residualformer.errors import UserError
from residualformer.files import write_json, write_text
from residualformer.metrics.bootstrap import NO_GAP, Score, paired_p_value, rate
from residualformer.metrics.wer import count_errors
from residualformer.report.compare import compare
from residualformer.report.plots import against_parameters, dev_losses, pareto_front, training_curves
from residualformer.report.results import NO_COMPARISON, Comparison, Decoding, Results, Row, Training
from residualformer.report.results_text import aligned, cells, render_markdown, show_pictures
from residualformer.report.scoring import find_runs, score_run

STEP = Path(__file__).parents[2] / "steps" / "score.py"
PARAMETERS = {"transformer": 1_500_000, "residual": 200_000, "total": 2_000_000, "training_only": 10}


def distance(a, b) -> int:
    """Levenshtein's distance, by its recursion."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(["one", "two", "three", "ten"], k=draw.randint(0, 9))) for _ in range(count)]


@pytest.mark.parametrize("unit", ["word", "character"])
def test_errors_are_minimal_and_add_up(unit):
    references, hypotheses = sentences(60, 1), sentences(60, 2)
    counts = count_errors(references, hypotheses, unit)
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        a, b = (reference.split(), hypothesis.split()) if unit == "word" else (reference, hypothesis)
        assert counts.errors[i] == distance(a, b) and counts.lengths[i] == len(a)
        assert len(a) - counts.deletions[i] + counts.insertions[i] == len(b)
    assert counts.rate == pytest.approx(100 * counts.errors.sum() / counts.lengths.sum())


def test_kinds_of_errors():
    counts = count_errors(["a b c d", "a", "", "x  y"], ["a x d", "", "b c", "x y"])
    assert counts.substitutions.tolist() == [1, 0, 0, 0]
    assert counts.deletions.tolist() == [1, 1, 0, 0]
    assert counts.insertions.tolist() == [0, 0, 2, 0]
    assert counts.rate == pytest.approx(100 * 5 / 7)
    assert math.isnan(count_errors([""], ["a"]).rate)


def test_interval_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(3)
    lengths = generator.integers(5, 15, 800)
    errors = generator.binomial(lengths, 0.12)
    measure = rate(errors, lengths)
    ratio = errors.sum() / lengths.sum()
    sigma = 100 * (errors - ratio * lengths).std() / lengths.mean() / math.sqrt(800)  # of a ratio, delta method
    ends = 100 * ratio - 1.96 * sigma, 100 * ratio + 1.96 * sigma
    assert measure.interval() == pytest.approx(ends, abs=0.15 * sigma) and measure.value == pytest.approx(100 * ratio)
    assert measure.interval() == rate(errors, lengths).interval()
    assert rate(np.array([2, 2]), np.array([8, 8])).interval() == (25, 25)
    assert rate(np.array([0]), np.array([0])).rounded() == Score(value=None, low=None, high=None)


def test_p_value_is_large_by_chance_small_for_a_real_gap_and_symmetric():
    generator = np.random.default_rng(4)
    base = generator.poisson(1.0, 500)
    same, worse = generator.permutation(base), base + (generator.random(500) < 0.05)
    base, same, worse = (rate(errors, np.full(500, 3)) for errors in (base, same, worse))
    assert paired_p_value(base, base) == 1
    assert paired_p_value(worse, base) < 0.002 and paired_p_value(base, worse) == paired_p_value(worse, base)
    assert paired_p_value(same, base) > 0.9  # the totals are equal
    z = generator.normal(size=(100, 100)).round().astype(int)  # no gap but chance: p is uniform, 5% of 100 = 5 +- 2.2
    zero = rate(np.zeros(100), np.ones(100))
    assert 1 <= sum(paired_p_value(rate(row, np.ones(100)), zero) < 0.05 for row in z) <= 12


def test_a_gap_to_a_baseline_that_hardly_errs_has_no_upper_end():
    """Of resampled test sets exp(-2) = 14% hold neither of its two errors, so that the 97.5% quantile is infinite."""
    errors = np.zeros((2, 100), dtype=int)
    errors[0, :2], errors[1, :8] = 1, 1
    baseline, run = (rate(row, np.full(100, 5)) for row in errors)
    gap = run.gap(baseline)
    assert gap.relative == 300 and gap.relative_low >= 0 and gap.relative_high is None
    header, ((*row,),) = cells(results(comparison=Comparison.of(gap, NO_GAP)))
    assert dict(zip(header, row, strict=True))["vs baseline"] == f"+300.0% [{gap.relative_low:+.1f}, inf]"


def write_run(egs: Path, name: str, hypotheses: list[str], skipped: int = 0, folder="decode_test_beam16", **decoding):
    """A decoding run of sentences(n, seed=1) with these hypotheses; the last `skipped` could not be read."""
    references = [text or "ten" for text in sentences(len(hypotheses) + skipped, 1)]
    run = egs / "exp" / name / folder
    lines = [
        json.dumps({"id": f"u{i}", "ref": references[i], "hyp": hypothesis}) for i, hypothesis in enumerate(hypotheses)
    ]
    rest = range(len(hypotheses), len(references))
    lost = [{"id": f"u{i}", "ref": references[i], "reason": "gone"} for i in rest]
    write_text(run / "hyp.jsonl", "\n".join(lines) + "\n")
    told = {"target": "text", "search": "beam16", "utterances": len(lines), "skipped": lost, "rtf": 0.021}
    write_json(run / "decode.json", told | decoding)
    return run


def test_a_skipped_utterance_counts_as_all_deleted(tmp_path):
    hypotheses = [text or "ten" for text in sentences(20, 1)]
    row = score_run(write_run(tmp_path, "model", hypotheses, skipped=3)).row
    lost = sum(len((text or "ten").split()) for text in sentences(23, 1)[20:])
    assert (row.utterances, row.missing, row.scores["wer"].deletions) == (23, 3, lost)
    assert row.scores["wer"].value == round(100 * lost / row.words, 2)


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
    for damaged in ({"utterances": 0}, {"utterances": 0, "skipped": ["a"]}):
        write_json(run / "decode.json", damaged)
        with pytest.raises(UserError, match="does not list the utterances that decoding skipped"):
            score_run(run)
    (run / "decode.json").unlink()
    with pytest.raises(UserError, match="decode.json"):
        score_run(run)


def results(**changes) -> Results:
    wer = Score(value=9.5, low=8.0, high=11.25, insertions=1, deletions=2, substitutions=30)
    row = Row(
        experiment="a|b", run="decode_test_beam16", split="test", search="beam16", metric="WER",
        utterances=10, missing=0, words=347, scores={"wer": wer, "cer": replace(wer, value=3.0)},
        comparison=replace(NO_COMPARISON, relative=-4.25, p_value=0.031), description="A model.",
        parameters=PARAMETERS, decoding=Decoding(rtf=0.0213, settings={"beam": 16}),
        training=Training(seed=1, command="train it", wall_s=90.0),
    )  # fmt: skip
    row = replace(row, **changes)
    return Results(corpus="mini", split="test", baseline="base", command="local/score.sh", commit="c", rows=[row])


def test_tables_show_the_numbers():
    header, ((*row,),) = cells(results())
    shown = dict(zip(header, row, strict=True))
    assert shown["WER % [95%]"] == "9.50 [8.00, 11.25]" and shown["ins/del/sub"] == "1/2/30"
    assert (shown["vs baseline"], shown["p"], shown["Transformer M"]) == ("-4.2%", "0.031", "1.500")
    assert "BLEU [95%]" not in shown and "missing" not in shown
    header, ((*row,),) = cells(results(missing=2))
    assert dict(zip(header, row, strict=True))["missing"] == "2"
    text = render_markdown(results())
    assert "Do not edit" in text.splitlines()[0] and "| a\\|b |" in text and "- time: 1.5 min" in text
    widths = {len(line) for line in aligned(results()).splitlines()}
    assert len(widths) <= 2


def test_a_row_without_model_or_decoding_record_still_shows():
    bare = results(parameters={}, training=Training(), decoding=Decoding(), description="", comparison=NO_COMPARISON)
    assert "9.50 [8.00, 11.25]" in render_markdown(bare) and "Transformer M" not in aligned(bare)


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


def test_the_pareto_front_is_what_nothing_smaller_surpasses():
    draw = random.Random(7)
    points = [(draw.randint(1, 20), draw.randint(1, 20)) for _ in range(60)]
    for sign, higher_is_better in ((1, False), (-1, True)):
        front = pareto_front(points, higher_is_better)
        beaten = {p for p in points if any(q != p and q[0] <= p[0] and sign * q[1] <= sign * p[1] for q in points)}
        assert front == sorted(set(points) - beaten)


def test_dev_losses_of_all_trainings_are_one_picture(tmp_path):
    write_text(tmp_path / "a.jsonl", '{"step": 5, "valid/transducer_per_token": 2.0}\n')
    write_text(tmp_path / "b.jsonl", '{"step": 5, "train/transducer_per_token": 2.0}\n')
    files = {name: tmp_path / f"{name}.jsonl" for name in "ab"}
    assert dev_losses(files, tmp_path / "x.png") and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert not dev_losses({"b": files["b"]}, tmp_path / "y.png") and not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(("low", "high"), [(21.0, 25.0), (15.0, 19.0), (20.0 + 1e-14, 20.0)])
def test_an_interval_beside_its_value_is_drawn(tmp_path, low, high):
    drawn = results(split="test", search="greedy", scores={"wer": Score(value=20.0, low=low, high=high)})
    assert against_parameters(drawn, tmp_path) == [tmp_path / "wer_vs_params.png"]


def test_pictures_of_nothing(tmp_path):
    assert against_parameters(results(parameters={}), tmp_path) == [] and list(tmp_path.iterdir()) == []
    write_text(tmp_path / "metrics.jsonl", "")
    training_curves(tmp_path / "metrics.jsonl", tmp_path / "b.png")
    assert (tmp_path / "b.png").exists()
