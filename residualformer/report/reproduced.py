"""A table of a paper with our numbers beside the printed ones, as plain values (what is written to table<N>.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from residualformer.errors import UserError
from residualformer.metrics.bootstrap import relative_gap
from residualformer.report.amnet import percent_saved
from residualformer.report.papers import Cell, Claim, Table, paper_gaps
from residualformer.report.results import Scored, gap

Runs = Mapping[tuple[str, str], Scored]  # by experiment and test set
HOLDS, FAILS = "holds", "does not hold"  # of limits, which are compared as they are
UNDECIDED, REVERSED, UNKNOWN = "within chance", "the other way round", "not measured"
SIGNIFICANT = 0.05


def reproduce(table: Table, runs: Runs, sets: Sequence[str]) -> dict[str, Any]:
    """The cells of `table` with what `runs` on the test sets `sets` measured; its claims are judged on the first set.

    UserError when the runs are of another metric than the table's.
    """
    for run in runs.values():
        if run.row["metric"] != table.metric:
            raise UserError(
                f"{table.name} is about {table.metric}, but {run.row['experiment']} was scored by {run.row['metric']}; "
                "take a table or a recipe of the same task"
            )
    shown = {cell.experiment for cell in table.cells()}
    apart = Cell(table.baseline, value=table.baseline_values or None)
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "metric": table.metric,
        "layout": table.layout,
        "baseline": table.baseline,
        "baseline_apart": None if table.baseline in shown else _cell(table, apart, runs, sets),
        "paper_sets": table.sets,
        "sets": list(sets),
        "columns": table.columns,
        "rows": [
            {"name": row.name, "cells": [cell and _cell(table, cell, runs, sets) for cell in row.cells]}
            for row in table.rows
        ],
        "claims": [_claim(table, claim, runs, sets[0]) for claim in table.claims],
    }


def _cell(table: Table, cell: Cell, runs: Runs, sets: Sequence[str]) -> dict[str, Any]:
    printed = {key: value for key, value in asdict(cell).items() if key not in ("experiment", "label", "control")}
    paper = printed | {"value": cell.values, "gap": [round(x, 2) for x in paper_gaps(table, cell)]}
    dense = _printed(table, table.baseline, "mflop")
    saved = dense and cell.mflop is not None and cell.experiment != table.baseline
    paper["saving"] = round(percent_saved(cell.mflop, dense), 1) if saved else None
    filled = {"experiment": cell.experiment, "label": cell.label, "paper": paper}
    filled["ours"] = _ours(cell.experiment, table.baseline, table, runs, sets)
    if cell.control:
        control = _ours(cell.control, table.baseline, table, runs, sets)
        filled["control"] = {"experiment": cell.control, "ours": control}
        if filled["ours"] and control:
            filled["control"]["against"] = {name: _gap(runs, cell.experiment, cell.control, name) for name in sets}
            filled["control"]["closed"] = _closed(table, cell, runs, sets[0])
    return filled


def _ours(name: str, baseline: str, table: Table, runs: Runs, sets: Sequence[str]) -> dict[str, Any] | None:
    """Size, cost of training and scores of an experiment; None where it was not decoded on any of the sets."""
    found = {split: runs[name, split] for split in sets if (name, split) in runs}
    if not found:
        return None
    row = next(iter(found.values())).row
    parameters, training = row["parameters"], row["training"]
    ours = {
        "parameters": parameters.get("transformer", parameters.get("encoder")),
        "residual": parameters.get("residual"),
        "steps": training.get("steps"),
        "minutes": round(training["wall_s"] / 60, 1) if "wall_s" in training else None,
        "starts_from": row["warm_start"],
        "sets": {},
    }
    for split, run in found.items():
        scores = {"value": run.row[table.key], "loss": run.row.get("loss"), "utterances": run.row["utterances"]}
        scores["search"] = _search(run.row["run"].removeprefix(f"decode_{split}_"), run.row.get("decoding", {}))
        scores |= {"gap": _gap(runs, name, baseline, split)} if name != baseline else {}
        ours["sets"][split] = scores | _costs(runs, name, baseline, split)
    return ours


def _search(name: str, decoding: dict[str, Any]) -> str:
    """Such as `beam16 (token_reward 1, length_norm)`: also what makes the texts longer, where that is used."""
    settings = decoding.get("settings", {})
    used = [f"token_reward {settings['token_reward']:g}"] if settings.get("token_reward") else []
    used += ["length_norm"] if settings.get("length_norm") and name != "greedy" else []
    return f"{name} ({', '.join(used)})" if used else name


def _costs(runs: Runs, name: str, baseline: str, split: str) -> dict[str, Any]:
    """The `amnet` of an experiment, with its `saving` of the baseline's FLOPs in percent; empty where there is none."""
    amnet, dense = (runs[each, split].row.get("amnet") if (each, split) in runs else None for each in (name, baseline))
    if not amnet:
        return {}
    saving = round(percent_saved(amnet["mflop"], dense["mflop"]), 1) if dense and name != baseline else None
    return {"amnet": amnet | {"saving": saving}}


def _gap(runs: Runs, name: str, other: str, split: str) -> dict[str, Any] | None:
    """How much worse `name` is than `other`, paired; None where one was not measured, or on other utterances."""
    if (name, split) not in runs or (other, split) not in runs:
        return None
    found = gap(runs[name, split], runs[other, split])
    return None if found["relative"] is None else found


def _closed(table: Table, cell: Cell, runs: Runs, split: str) -> dict[str, Any] | None:
    """Percent of a lead that the cell makes up: of `leader` over `start`, where there is one (else `ours` is None).

    That of the baseline trained on for as long, over the cell's control. Where that was not measured, it is that of the
    baseline over the experiment that the cell starts from, and `control` what more training alone makes up of it.
    `paper` is always of the latter, as the paper has no other.
    """
    source = runs[cell.experiment, split].row["warm_start"] if (cell.experiment, split) in runs else ""
    if not source:
        return None
    fair = table.trained_on is not None and (table.trained_on, split) in runs
    leader, start = (table.trained_on, cell.control) if fair else (table.baseline, source)

    def share(values: Sequence[float | None]) -> float | None:
        baseline, start, end = values
        if None in values or relative_gap(start, baseline, table.metric == "BLEU") <= 0:
            return None
        return round(100 * (start - end) / (start - baseline), 1)

    def ours(name: str) -> float | None:
        return runs[name, split].row[table.key]["value"] if (name, split) in runs else None

    printed = {each.experiment: each.values[0] for each in table.cells() if each.values}
    printed = {table.baseline: next(iter(table.baseline_values), None)} | printed
    return {
        "leader": leader,
        "start": start,
        "paper": share([printed.get(name) for name in (table.baseline, source, cell.experiment)]),
        "ours": share([ours(name) for name in (leader, start, cell.experiment)]),
        "control": None if fair else share([ours(name) for name in (leader, start, cell.control)]),
    }


def _claim(table: Table, claim: Claim, runs: Runs, split: str) -> dict[str, Any]:
    pairs = [_judge(table, claim, runs, split, *pair) for pair in claim.pairs]
    return {"says": claim.says, "measure": claim.measure, "at_most": claim.at_most, "pairs": pairs}


def _judge(table: Table, claim: Claim, runs: Runs, split: str, better: str, worse: str) -> dict[str, Any]:
    """One pair of a claim: both values, the verdict, and for accuracies the paired gap and the verdict of the loss."""
    pair: dict[str, Any] = {"experiments": [better, worse]}
    pair["paper"] = [_printed(table, name, claim.measure) for name in (better, worse)]
    pair["ours"] = [_measured(table, runs, name, split, claim.measure) for name in (better, worse)]
    if None in pair["ours"]:
        return pair | {"verdict": UNKNOWN}
    first, second = pair["ours"]
    if claim.at_most is not None or claim.measure != "value":
        factor = 1.0 if claim.at_most is None else claim.at_most
        return pair | {"verdict": HOLDS if first <= factor * second else FAILS}
    found = _gap(runs, better, worse, split)
    if found is None:
        return pair | {"verdict": UNKNOWN}
    pair |= {"gap": found, "verdict": verdict(found["relative"], found["p_value"])}
    if found.get("loss_relative") is not None:
        pair["loss_verdict"] = verdict(found["loss_relative"], found["loss_p_value"])
    return pair


def verdict(relative: float, p_value: float) -> str:
    """Of a gap that a claim expects to be negative."""
    if p_value >= SIGNIFICANT:
        return UNDECIDED
    return HOLDS if relative < 0 else REVERSED


def _printed(table: Table, name: str, measure: str) -> float | None:
    """The paper's value, of its first set."""
    for cell in table.cells():
        if cell.experiment == name:
            return next(iter(cell.values), None) if measure == "value" else getattr(cell, measure)
    return None


def _measured(table: Table, runs: Runs, name: str, split: str, measure: str) -> float | None:
    run = runs.get((name, split))
    if run is None:
        return None
    if measure == "value":
        return run.row[table.key]["value"]
    amnet = run.row.get("amnet") or {}
    return amnet.get("latency_ms", {}).get("mean") if measure == "latency_ms" else amnet.get(measure)
