"""The numbers and the words of a paper's table, against sums, counts and a bootstrap of our own."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support.decoded_runs import write_translation
from support.paper_runs import SYSTEMS, UTTERANCES, WORDS, cell, errors_and_nats, write_run

from residualformer.errors import UserError
from residualformer.report.amnet import AmnetCost, Latency
from residualformer.report.compare import compare_runs
from residualformer.report.paper_text import findings, render
from residualformer.report.papers import Claim, find_table, read_table
from residualformer.report.reproduce import FAILS, HOLDS, REVERSED, UNDECIDED, UNKNOWN, reproduce, verdict
from residualformer.report.scoring import find_runs, score_run

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "conf" / "tables"


@pytest.fixture(scope="module")
def table3(paper_runs):
    return reproduce(find_table(TABLES, "3"), paper_runs, ["test"])


def relative(name: str, other: str, which: int) -> float:
    own, others = (errors_and_nats(each)[which].sum() for each in (name, other))
    return 100 * (own - others) / others


def bootstrap(name: str, other: str, which: int) -> np.ndarray:
    """Relative gaps on test sets drawn one utterance at a time."""
    own, others = (errors_and_nats(each)[which] for each in (name, other))
    drawn = np.random.default_rng(1).integers(UTTERANCES, size=(4000, UTTERANCES))
    return 100 * (own[drawn].sum(1) / others[drawn].sum(1) - 1)


def test_a_cell_has_the_scores_of_its_experiment(table3):
    ours = cell(table3, "shared").ours
    errors, nats = errors_and_nats("shared")
    scores = ours.sets["test"]
    assert scores.value.value == pytest.approx(100 * errors.sum() / (UTTERANCES * WORDS), abs=0.005)
    assert scores.loss.value == pytest.approx(nats.sum() / (UTTERANCES * WORDS), abs=0.00005)
    assert scores.loss.low < scores.loss.value < scores.loss.high
    assert (ours.steps, ours.minutes, ours.parameters, ours.residual) == (3000, 1.5, 2_000_000, 150_000)
    assert cell(table3, "shared9").ours is None and cell(table3, "shared9").paper.value == [15.49]


@pytest.mark.parametrize("which", [0, 1], ids=["errors", "nats"])
@pytest.mark.parametrize("pair", [("shared", "baseline"), ("residual", "control")])
def test_gaps_and_their_intervals_are_paired(table3, pair, which):
    name, other = pair
    found = cell(table3, name)
    found = asdict(found.ours.sets["test"].gap if other == "baseline" else found.control.against["test"])
    prefix = ("", "loss_")[which]
    assert found[f"{prefix}relative"] == pytest.approx(relative(name, other, which), abs=0.005)
    samples = bootstrap(name, other, which)
    low, high = np.quantile(samples, [0.025, 0.975])
    # An end of an interval from 2,000 samples strays by about 0.04 of the spread between the ends.
    measured = (found[f"{prefix}relative_low"], found[f"{prefix}relative_high"])
    assert measured == pytest.approx((low, high), abs=0.1 * (high - low) + 0.005)
    p_value = 2 * min((samples <= 0).mean(), (samples >= 0).mean())
    assert found[f"{prefix}p_value"] == pytest.approx(p_value, abs=0.03)


def test_how_much_of_the_gap_is_closed(table3):
    totals = {name: errors_and_nats(name)[0].sum() for name in SYSTEMS}
    closed = cell(table3, "residual").control.closed
    lead = totals["shared"] - totals["baseline"]
    assert closed.ours == pytest.approx(100 * (totals["shared"] - totals["residual"]) / lead, abs=0.1)
    assert closed.control == pytest.approx(100 * (totals["shared"] - totals["control"]) / lead, abs=0.1)
    assert closed.paper == pytest.approx(100 * (13.81 - 13.52) / (13.81 - 13.28), abs=0.05)


def test_the_fair_lead_is_that_of_models_trained_for_as_long(paper_runs):
    """Here the baseline does not gain by more training, so that its control's errors are all that changes."""
    totals = {name: errors_and_nats(name)[0].sum() for name in SYSTEMS}
    result = reproduce(
        find_table(TABLES, "3"), paper_runs | {("control1", "test"): paper_runs["baseline", "test"]}, ["test"]
    )
    closed = cell(result, "residual").control.closed
    share = 100 * (totals["control"] - totals["residual"]) / (totals["control"] - totals["baseline"])
    assert closed.ours == pytest.approx(share, abs=0.1) and closed.control is None
    printed = 100 * (13.81 - 13.52) / (13.81 - 13.28)
    said = f"makes up of the lead of `control1` over its control, all trained for as long .*: `residual` {share:.0f}%"
    assert re.search(said + rf" \(paper {printed:.0f}%\)\.", findings(result)[-1])
    without = reproduce(
        find_table(TABLES, "3"), paper_runs | {("control1", "test"): paper_runs["shallow6", "test"]}, ["test"]
    )
    assert "`residual` no lead (paper 55%)" in findings(without)[-1]


def test_the_orderings_are_judged(paper_runs):
    judged = {claim.says: claim for claim in reproduce(find_table(TABLES, "1"), paper_runs, ["test"]).claims}
    beats = judged["sharing beats the shallow model of equal size"]
    assert [pair.verdict for pair in beats.pairs] == [HOLDS, UNKNOWN, UNKNOWN, UNKNOWN]
    assert beats.pairs[0].paper == (13.81, 16.25)
    costs = judged["every further sharing costs accuracy"].pairs
    assert [pair.verdict for pair in costs] == [HOLDS, UNDECIDED, UNKNOWN, UNKNOWN]  # shared errs as shared6 does
    assert [verdict(*gap) for gap in ((-3, 0.01), (3, 0.01), (-3, 0.06), (0, 1))] == [
        HOLDS, REVERSED, UNDECIDED, UNDECIDED,
    ]  # fmt: skip


def test_limits_are_compared_as_they_are(paper_runs):
    table = find_table(TABLES, "3")
    for at_most, expected in {1.5: HOLDS, 1.01: FAILS}.items():
        object.__setattr__(table, "claims", [Claim("x", [["shared", "baseline"]], at_most=at_most)])
        assert reproduce(table, paper_runs, ["test"]).claims[0].pairs[0].verdict == expected


def test_the_words_say_what_the_numbers_do(table3, paper_runs):
    said = "\n".join(findings(table3))
    errors = {name: 100 * errors_and_nats(name)[0].sum() / (UTTERANCES * WORDS) for name in SYSTEMS}
    assert f"`residual` {errors['residual']:.2f} against `control` {errors['control']:.2f}" in said
    assert "beat their control, weight sharing trained on for as long, at every K**: appears (3 not measured)" in said
    assert "residual weights at K = 6 beat 4 sets spread evenly**: not measured." in said
    assert "Share that each makes up of the lead of `baseline` over the model that it starts from: `residual`" in said
    text = render(table3)
    lines = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in text.splitlines()}
    assert [value.strip(" |") for value in lines["**one more set of weights instead**"]][1] == "last layer unique"
    assert "Not measured: `shared9`, `shared18`, `residual6`" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {7}  # a table of six columns


def test_a_baseline_in_no_cell_is_told_below_the_table(paper_runs, table3):
    result = reproduce(find_table(TABLES, "5"), paper_runs, ["test"])
    text = render(result)
    errors = errors_and_nats("baseline")[0].sum()
    told = next(line for line in text.splitlines() if line.startswith("The baseline, in none of these cells: "))
    assert f"WER, paper 13.28; WER [95%] {100 * errors / (UTTERANCES * WORDS):.2f} [" in told and "`baseline`" in told
    assert table3.baseline_apart is None
    nothing = reproduce(find_table(TABLES, "5"), {}, ["test"])
    text = render(nothing)
    assert "`baseline`" in next(line for line in text.splitlines() if line.startswith("Not measured: "))


def test_amnets_have_a_line_for_each_model(paper_egs, tmp_path):
    amnet = AmnetCost(
        frames=10, compression=[0.35, 0.6], shares=[0.4, 0.6], per_branch=[], mflop=1.0, mu=1.0, rho=1.0, saving=None,
        latency_ms=Latency(mean=12.5, median=0.0, p90=0.0, p99=0.0),
    )  # fmt: skip
    runs = {}
    for name, change in {"rnnt": {"mflop": 2.0, "shares": [1.0], "compression": []}, "mf_amr": {}}.items():
        run = score_run(paper_egs / "exp" / "baseline" / "decode_test_beam16")
        runs[name, "test"] = replace(run, row=replace(run.row, experiment=name, amnet=replace(amnet, **change)))
    result = reproduce(find_table(TABLES, "amnets"), runs, ["test"])
    text = render(result)
    table = [[value.strip() for value in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    line = dict(zip(table[0], next(row for row in table if row[0] == "MF AmNet L_amr"), strict=True))
    assert (line["WER, paper"], line["FLOPs saved %, paper"], line["FLOPs saved %"]) == ("8.6", "45.7", "50.0")
    assert (line["slow / fast %, paper"], line["slow / fast %"], line["latency ms"]) == ("23 / 77", "40 / 60", "12.5")
    assert len(table) == 2 + 9
    judged = {claim.says: [pair.verdict for pair in claim.pairs] for claim in result.claims}
    assert judged["the factorised AmNet with L_amr takes at most 60% of the FLOPs per frame of the RNN-T"] == [HOLDS]


def test_losses_are_compared_over_the_same_utterances_only(tmp_path):
    for name in ("baseline", "shared"):
        write_run(tmp_path, name)
    path = tmp_path / "exp" / "shared" / "decode_test_beam16" / "hyp.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["ref_nats"] = None  # too long for it
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared, baseline = (score_run(tmp_path / "exp" / name / "decode_test_beam16") for name in ("shared", "baseline"))
    kept = [line["ref_nats"] for line in lines if line["ref_nats"] is not None]
    assert shared.row.scores["loss"].value == pytest.approx(sum(kept) / (WORDS * (UTTERANCES - 1)), abs=0.00005)
    found = compare_runs(shared, baseline)
    assert found.relative is not None and found.loss_relative is None
    for line in lines:
        del line["ref_nats"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "loss" not in score_run(path.parent).row.scores


def test_a_table_of_ones_own_is_a_file(tmp_path, paper_runs):
    text = "title: t\nsource: s\nmetric: WER\nbaseline: baseline\nrows: [{name: r, cells: [{experiment: shared}]}]\n"
    (tmp_path / "own.yaml").write_text(text)
    found = cell(reproduce(read_table(tmp_path / "own.yaml"), paper_runs, ["test"]), "shared")
    assert found.paper.value == [] and found.ours.sets["test"].gap.relative > 0
    with pytest.raises(UserError, match="is about BLEU"):
        reproduce(find_table(TABLES, "2"), paper_runs, ["test"])


def test_a_papers_table_of_bleu(tmp_path):
    """More is better: the gap of the worse is positive, and what is better holds."""
    for name, errors in (("baseline", 0.1), ("shared", 0.2), ("shallow6", 0.3)):
        write_translation(tmp_path, name, "covost", 80, errors)
    runs = {(run.row.experiment, "covost"): run for run in map(score_run, find_runs(tmp_path / "exp", ["covost"]))}
    values = {name: run.row.scores["bleu"].value for (name, _), run in runs.items()}
    result = reproduce(find_table(TABLES, "2"), runs, ["covost"])
    text = render(result)
    gap = result.measured()["shared"].sets["covost"].gap.relative
    assert 0 < gap == pytest.approx(100 * (values["baseline"] - values["shared"]) / values["baseline"], abs=0.05)
    expected = f"`shared` {values['shared']:.2f} against `shallow6` {values['shallow6']:.2f} ("
    assert f"sharing beats the shallow model of equal size**: appears (3 not measured). {expected}" in text
    assert "% better, p 0.001: holds; paper 26.7 against 22.3)" in text
    assert "judged on covost; the paper's values beside them are of CoVoST." in text and "tok:zh" in text
