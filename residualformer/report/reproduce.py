"""Fill a table of a paper with our numbers, and judge the orderings that the paper reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from residualformer.errors import UserError
from residualformer.metrics.bootstrap import relative_gap
from residualformer.report.amnet import AmnetCost, percent_saved
from residualformer.report.compare import compare_runs
from residualformer.report.paper_table import (
    Closed,
    Control,
    JudgedClaim,
    JudgedPair,
    Measured,
    PaperTable,
    Printed,
    SetScores,
    TableCell,
    TableRow,
)
from residualformer.report.papers import Cell, Claim, Table, paper_gaps
from residualformer.report.papers import Row as PaperRow
from residualformer.report.results import Comparison, Row
from residualformer.report.scoring import Scored

Runs = Mapping[tuple[str, str], Scored]  # by the row's name and test set
HOLDS, FAILS = "holds", "does not hold"  # limits fail; orderings are tested for significance
UNDECIDED, REVERSED, UNKNOWN = "within chance", "the other way round", "not measured"
SIGNIFICANT = 0.05


def reproduce(table: Table, runs: Runs, sets: Sequence[str]) -> PaperTable:
    """Return `table` with what `runs` measured on the test sets `sets`; claims are judged on the first set.

    Raises:
        UserError: the runs are scored by another metric than the table's.
    """
    for run in runs.values():
        if run.row.metric != table.metric:
            raise UserError(
                f"{table.name} is about {table.metric}, but {run.row.experiment} was scored by {run.row.metric}; "
                "take a table or a recipe of the same task"
            )
    filler = _Filler(table, runs, sets)
    shown = {cell.experiment for cell in table.cells()}
    return PaperTable(
        table=table.name,
        title=table.title,
        source=table.source,
        metric=table.metric,
        layout=table.layout,
        baseline=table.baseline,
        baseline_apart=None if table.baseline in shown else filler.cell(table.cell(table.baseline)),
        paper_sets=table.sets,
        sets=list(sets),
        columns=table.columns,
        rows=[filler.row(row) for row in table.rows],
        claims=[filler.claim(claim) for claim in table.claims],
    )


def verdict(relative: float, p_value: float) -> str:
    """Judge a gap that a claim expects to be negative."""
    if p_value >= SIGNIFICANT:
        return UNDECIDED
    return HOLDS if relative < 0 else REVERSED


class _Filler:
    """The cells and claims of a table, from the runs on some test sets."""

    def __init__(self, table: Table, runs: Runs, sets: Sequence[str]) -> None:
        self.table, self.runs, self.sets = table, runs, sets

    def row(self, row: PaperRow) -> TableRow:
        cells = [self.cell(cell) if cell else None for cell in row.cells]
        controls = [self.cell(Cell(name, label=label)) for label, name in row.controls.items()]
        return TableRow(name=row.name, cells=cells, controls=controls or None)

    def cell(self, cell: Cell) -> TableCell:
        ours = self.measured(cell.experiment)
        control = self.control(cell, cell.control, ours) if cell.control else None
        dense = self.table.cell(self.table.baseline).mflop
        saving = None
        if dense and cell.mflop is not None and cell.experiment != self.table.baseline:
            saving = round(percent_saved(cell.mflop, dense), 1)
        paper = Printed(
            value=cell.values,
            parameters=cell.parameters,
            residual=cell.residual,
            compression=cell.compression,
            slow=cell.slow,
            mflop=cell.mflop,
            latency_ms=cell.latency_ms,
            gap=[round(x, 2) for x in paper_gaps(self.table, cell)],
            saving=saving,
        )
        return TableCell(experiment=cell.experiment, label=cell.label, paper=paper, ours=ours, control=control)

    def control(self, cell: Cell, name: str, ours: Measured | None) -> Control:
        control = Control(experiment=name, ours=self.measured(name))
        if not ours or not control.ours:
            return control
        against = {split: self.comparison(cell.experiment, name, split) for split in self.sets}
        return replace(control, against=against, closed=self.closed(cell.experiment, name))

    def measured(self, name: str) -> Measured | None:
        """Return None where the experiment was not decoded on any of the sets."""
        found = {split: self.runs[name, split].row for split in self.sets if (name, split) in self.runs}
        if not found:
            return None
        row = next(iter(found.values()))
        training = row.training
        return Measured(
            parameters=row.encoder_parameters,
            residual=row.parameters.get("residual"),
            steps=training.steps,
            minutes=None if training.wall_s is None else round(training.wall_s / 60, 1),
            starts_from=row.warm_start,
            sets={split: self.scores(name, split, row) for split, row in found.items()},
        )

    def scores(self, name: str, split: str, row: Row) -> SetScores:
        return SetScores(
            value=row.scores[self.table.metric.lower()],
            loss=row.scores.get("loss"),
            utterances=row.utterances,
            search=_search(row),
            gap=self.comparison(name, self.table.baseline, split) if name != self.table.baseline else None,
            amnet=self.cost(row.amnet, name, split),
        )

    def cost(self, amnet: AmnetCost | None, name: str, split: str) -> AmnetCost | None:
        """Return the cost of an AmNet, with its saving relative to the table's baseline."""
        baseline = self.runs.get((self.table.baseline, split))
        saving = None
        if amnet and baseline and baseline.row.amnet and name != self.table.baseline:
            saving = round(percent_saved(amnet.mflop, baseline.row.amnet.mflop), 1)
        return amnet and replace(amnet, saving=saving)

    def comparison(self, name: str, other: str, split: str) -> Comparison | None:
        """Compare two experiments; None where one was not measured, or on other utterances."""
        if (name, split) not in self.runs or (other, split) not in self.runs:
            return None
        found = compare_runs(self.runs[name, split], self.runs[other, split])
        return None if found.relative is None else found

    def closed(self, name: str, control: str) -> Closed | None:
        """Return how much of a lead an experiment makes up; None where it starts from no other.

        The lead is that of the baseline trained on for as long, over the experiment's control. Where that was not
        measured, it is that of the baseline over the experiment that this one starts from.
        """
        run = self.runs.get((name, self.sets[0]))
        if run is None or not run.row.warm_start:
            return None
        baseline, source, trained_on = self.table.baseline, run.row.warm_start, self.table.trained_on
        fair = trained_on is not None and (trained_on, self.sets[0]) in self.runs
        leader, start = (trained_on, control) if fair and trained_on else (baseline, source)
        return Closed(
            leader=leader,
            start=start,
            paper=self.share(self.printed, baseline, source, name),
            ours=self.share(self.value, leader, start, name),
            control=None if fair else self.share(self.value, leader, start, control),
        )

    def share(self, value_of: Callable[[str], float | None], leader: str, start: str, end: str) -> float | None:
        """Return how much of the lead of `leader` over `start` experiment `end` makes up, in percent."""
        lead, first, last = value_of(leader), value_of(start), value_of(end)
        if lead is None or first is None or last is None:
            return None
        if relative_gap(first, lead, self.table.metric == "BLEU") <= 0:
            return None
        return round(100 * (first - last) / (first - lead), 1)

    def claim(self, claim: Claim) -> JudgedClaim:
        pairs = [self.judge(claim, better, worse) for better, worse in claim.pairs]
        ours = claim.ours or None
        return JudgedClaim(says=claim.says, measure=claim.measure, at_most=claim.at_most, pairs=pairs, ours=ours)

    def judge(self, claim: Claim, better: str, worse: str) -> JudgedPair:
        """Judge limits by the values, and orderings of accuracy by the paired comparison."""
        first, second = (self.value(name, claim.measure) for name in (better, worse))
        pair = JudgedPair(
            experiments=(better, worse),
            paper=(self.printed(better, claim.measure), self.printed(worse, claim.measure)),
            ours=(first, second),
            verdict=UNKNOWN,
        )
        if first is None or second is None:
            return pair
        if claim.at_most is not None or claim.measure != "value":
            factor = 1.0 if claim.at_most is None else claim.at_most
            return replace(pair, verdict=HOLDS if first <= factor * second else FAILS)
        gap = self.comparison(better, worse, self.sets[0])
        if gap is None or gap.relative is None or gap.p_value is None:
            return pair
        by_loss = None
        if gap.loss_relative is not None and gap.loss_p_value is not None:
            by_loss = verdict(gap.loss_relative, gap.loss_p_value)
        return replace(pair, gap=gap, verdict=verdict(gap.relative, gap.p_value), loss_verdict=by_loss)

    def printed(self, name: str, measure: str = "value") -> float | None:
        """Return the paper's value, of its first set."""
        cell = self.table.cell(name)
        return next(iter(cell.values), None) if measure == "value" else getattr(cell, measure)

    def value(self, name: str, measure: str = "value") -> float | None:
        """Return our value on the first set."""
        run = self.runs.get((name, self.sets[0]))
        if run is None:
            return None
        if measure == "value":
            return run.row.scores[self.table.metric.lower()].value
        amnet = run.row.amnet
        if amnet is None:
            return None
        return amnet.latency_ms.mean if measure == "latency_ms" else amnet.mflop


def _search(row: Row) -> str:
    """Return the search and its settings that lengthen texts, such as `beam16 (token_reward 1, length_norm)`."""
    name, settings = row.search_name, row.decoding.settings or {}
    used = [f"token_reward {settings['token_reward']:g}"] if settings.get("token_reward") else []
    used += ["length_norm"] if settings.get("length_norm") and name != "greedy" else []
    return f"{name} ({', '.join(used)})" if used else name
