"""The rows of a table of results: each run beside the run of its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from residualformer.data.splits import set_of
from residualformer.errors import UserError, closest
from residualformer.metrics.bootstrap import NO_GAP
from residualformer.report.amnet import percent_saved, table_order
from residualformer.report.results import NO_COMPARISON, Comparison, Row
from residualformer.report.scoring import Scored

TRANSFORMER_BASELINE, RECURRENT_BASELINE = "baseline", "rnnt"  # the experiments that others are compared with


def compare(runs: Sequence[Scored], baseline: str | None = None) -> list[Row]:
    """Return the rows of `runs`, each compared with the run of its baseline whose folder has the same name.

    That of a control of an arbitrator has the name without the control's.
    The experiment given as `baseline` serves all. By default Transformers are compared with the experiment `baseline`
    and recurrent encoders with `rnnt`, or all with the one of the two that exists. Rows are sorted by test set, in the
    order of `runs` and each before its subsets; within a set baselines come first, recurrent encoders last, in the
    paper's order.

    Raises:
        UserError: no experiment has the given name.
    """
    names = [run.row.experiment for run in runs]
    if baseline is not None and baseline not in names:
        allowed = ", ".join(dict.fromkeys(names))
        advice = closest(baseline, names)
        raise UserError(f"--baseline {baseline} is not a decoded experiment; there are: {allowed}.{advice}")
    by_name = {(run.row.experiment, run.row.run): run for run in runs}
    sets = list(dict.fromkeys(set_of(run.row.split) for run in runs))

    def baseline_of(run: Scored) -> str:
        own, other = TRANSFORMER_BASELINE, RECURRENT_BASELINE
        if run.recurrent:
            own, other = other, own
        return baseline or (other if own not in names and other in names else own)

    def place(run: Scored) -> tuple:
        row, order = run.row, table_order(run.config) if run.recurrent and run.config else ()
        by_set = sets.index(set_of(row.split)), row.split
        # Models that are trained from scratch come before those that start from them.
        return *by_set, run.recurrent, row.experiment != baseline_of(run), order, row.warm_start, row.control

    rows = []
    for run in sorted(runs, key=place):
        name = baseline_of(run)
        comparison = compare_runs(run, by_name.get((name, run.row.search_run)))
        row = replace(run.row, baseline=name, comparison=comparison)
        its = by_name.get((_controlled(run), run.row.search_run))
        if its and (beside := compare_runs(run, its)) != NO_COMPARISON:
            row = replace(row, control_of=its.row.experiment, beside_it=beside)
        rows.append(row)
    return with_savings(rows)


def _controlled(run: Scored) -> str:
    """Return the experiment that `run` is a control of: its own by another choice, or the one whose cost it matches."""
    if run.row.control:
        return run.row.experiment
    return (run.config and run.config.amnet.match) or ""


def compare_runs(run: Scored, other: Scored | None) -> Comparison:
    """Compare `run` with `other`; return NO_COMPARISON unless utterances, references and search settings are equal."""
    name = next(iter(run.measures))
    if other is None or other is run or other.tested != run.tested or name not in other.measures:
        return NO_COMPARISON
    loss, other_loss = run.measures.get("loss"), other.measures.get("loss")
    # The losses of two runs are comparable where they are of the same utterances: of equal numbers of tokens.
    same = loss and other_loss and all((a[:, 1] == b[:, 1]).all() for a, b in zip(loss.parts, other_loss.parts))
    return Comparison.of(
        run.measures[name].gap(other.measures[name]), loss.gap(other_loss) if same and loss and other_loss else NO_GAP
    )


def with_savings(rows: Sequence[Row], baseline: str = RECURRENT_BASELINE) -> list[Row]:
    """Return the rows with the `saving` of each AmNet, relative to the first row of experiment `baseline`."""
    dense = next((row.amnet.mflop for row in rows if row.experiment == baseline and row.amnet), None)

    def with_saving(row: Row) -> Row:
        if row.amnet is None or row.of_transformer:
            return row
        saving = None if dense is None else round(percent_saved(row.amnet.mflop, dense), 2)
        return replace(row, amnet=replace(row.amnet, saving=saving))

    return list(map(with_saving, rows))
