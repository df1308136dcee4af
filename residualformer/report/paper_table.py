"""A table of a paper with our numbers beside the printed ones, as data (tables/<table>.json)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residualformer.files import read_json
from residualformer.metrics.bootstrap import Score
from residualformer.report.amnet import AmnetCost
from residualformer.report.plain import from_plain, to_plain
from residualformer.report.results import Comparison


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What the paper prints for a cell; the units are those of `papers.Cell`.

    Attributes:
        value: for each of the paper's test sets.
        gap: to the baseline in percent, for each of the paper's test sets.
        saving: percent of the baseline's FLOPs per frame.
    """

    value: list[float]
    parameters: float | None
    residual: float | None
    compression: list[float] | None
    slow: float | None
    mflop: float | None
    latency_ms: float | None
    gap: list[float]
    saving: float | None


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """The scores of an experiment on one test set.

    Attributes:
        value: WER or BLEU.
        loss: nats per token.
        search: with the settings that make texts longer, where they are used.
        gap: to the baseline.
        amnet: of AmNets, with the saving of the table's baseline.
    """

    value: Score
    loss: Score | None
    utterances: int
    search: str
    gap: Comparison | None = None
    amnet: AmnetCost | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Size, cost of training and scores of an experiment.

    Attributes:
        parameters: of the Transformer layers or the recurrent encoder; `residual`: those that are residual weights.
        steps, minutes: of its training.
        starts_from: the experiment that it is warm-started from, empty where there is none.
        sets: the scores on each test set on which it was decoded.
    """

    parameters: int | None
    residual: int | None
    steps: int | None
    minutes: float | None
    starts_from: str
    sets: dict[str, SetScores]


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The percentage of a lead, of experiment `leader` over `start`, that a cell makes up.

    Attributes:
        paper: by the paper's values, which are of the baseline and the experiment that the cell starts from.
        ours: None where there is no lead.
        control: what training alone makes up, where the lead is not that of models trained for as long.
    """

    leader: str
    start: str
    paper: float | None
    ours: float | None
    control: float | None


@dataclass(frozen=True, kw_only=True)
class Control:
    """The experiment that is trained for as long as a cell's without residual weights.

    Attributes:
        against: the cell compared with it, on each test set.
        closed: see `Closed`.
    """

    experiment: str
    ours: Measured | None
    against: dict[str, Comparison | None] | None = None
    closed: Closed | None = None


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A cell: what the paper prints and what we measured, None where we did not."""

    experiment: str
    label: str
    paper: Printed
    ours: Measured | None
    control: Control | None = None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row, with a cell for each column; None where the paper's table has none."""

    name: str
    cells: list[TableCell | None]


@dataclass(frozen=True, kw_only=True)
class JudgedPair:
    """A pair of experiments of a claim, the one expected to be better first.

    Attributes:
        paper, ours: the two values; None where the paper prints none or we did not measure it.
        gap: the first compared with the second, where accuracies are.
        verdict, loss_verdict: by the measure of the claim, and by the transducer loss.
    """

    experiments: tuple[str, str]
    paper: tuple[float | None, float | None]
    ours: tuple[float | None, float | None]
    gap: Comparison | None = None
    verdict: str
    loss_verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """An ordering that the paper reports, see `papers.Claim`, and whether we find it."""

    says: str
    measure: str
    at_most: float | None
    pairs: list[JudgedPair]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of a paper with our numbers in it.

    Attributes:
        table: its name, of conf/tables/<table>.yaml; `title`, `source`, `metric`, `layout`, `columns`: see there.
        baseline: the experiment that gaps are relative to.
        baseline_apart: its cell, where it is in no row.
        paper_sets: the paper's test sets, if it has several.
        sets: our test sets; claims are judged on the first.
        recipe, command, commit: where it was measured, and what wrote it.
        findings: in words, a sentence for each claim.
    """

    table: str
    title: str
    source: str
    metric: str
    layout: str
    baseline: str
    baseline_apart: TableCell | None
    paper_sets: list[str]
    sets: list[str]
    columns: list[str]
    rows: list[TableRow]
    claims: list[JudgedClaim]
    recipe: str = ""
    command: str = ""
    commit: str = ""
    findings: list[str] = field(default_factory=list)

    def cells(self) -> Iterator[TableCell]:
        """Iterate over the cells of all rows, and the baseline where it is in none."""
        for row in self.rows:
            yield from filter(None, row.cells)
        if self.baseline_apart:
            yield self.baseline_apart

    def measured(self) -> dict[str, Measured | None]:
        """Return all experiments, the controls last, with what we measured of them."""
        cells = list(self.cells())
        controls = [cell.control for cell in cells if cell.control]
        own = {cell.experiment: cell.ours for cell in cells}
        return own | {control.experiment: control.ours for control in controls}

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to tables/<table>.json."""
        return to_plain(self)

    @classmethod
    def read(cls, path: Path) -> PaperTable:
        """Read tables/<table>.json; UserError where it is missing or is not one."""
        advice = "write it again with local/reproduce.sh"
        return from_plain(cls, read_json(path, advice), str(path), advice)
