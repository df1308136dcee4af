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
    """The values that the paper prints for a cell, in the units of `papers.Cell`, and what follows from them."""

    value: list[float]  # for each of the paper's test sets
    parameters: float | None
    residual: float | None
    compression: list[float] | None
    slow: float | None
    mflop: float | None
    latency_ms: float | None
    gap: list[float]  # to the baseline in percent, for each of the paper's test sets
    saving: float | None  # percent of the baseline's FLOPs per frame


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """The scores of an experiment on one test set."""

    value: Score  # WER or BLEU
    loss: Score | None  # nats per token
    utterances: int
    search: str  # with the settings that make texts longer, where they are used
    gap: Comparison | None = None  # to the baseline
    amnet: AmnetCost | None = None  # `saving` is relative to the table's baseline


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Size, cost of training and scores of an experiment."""

    parameters: int | None  # of the Transformer layers or the recurrent encoder
    residual: int | None  # those of them that are residual weights
    steps: int | None
    minutes: float | None
    starts_from: str  # the experiment that it is warm-started from, or ""
    sets: dict[str, SetScores]  # by test set


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The percentage of a lead, of experiment `leader` over `start`, that a cell makes up."""

    leader: str
    start: str
    paper: float | None  # by the paper's values of the baseline and the experiment that the cell starts from
    ours: float | None  # None where there is no lead
    control: float | None  # what training alone makes up; None where leader and start were trained for as long


@dataclass(frozen=True, kw_only=True)
class Control:
    """The experiment that is trained for as long as a cell's, without residual weights."""

    experiment: str
    ours: Measured | None
    against: dict[str, Comparison | None] | None = None  # the cell compared with it, on each test set
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
    controls: list[TableCell] | None = None  # models that the paper lacks, each with its label


@dataclass(frozen=True, kw_only=True)
class JudgedPair:
    """A pair of experiments of a claim, the one expected to be better first."""

    experiments: tuple[str, str]
    paper: tuple[float | None, float | None]  # the values that the paper prints
    ours: tuple[float | None, float | None]  # the values that we measured
    gap: Comparison | None = None  # the first compared with the second, for claims on accuracy
    verdict: str
    loss_verdict: str | None = None  # by the transducer loss


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """An ordering that the paper reports or that controls decide, see `papers.Claim`, and whether we find it."""

    says: str
    measure: str
    at_most: float | None
    pairs: list[JudgedPair]
    ours: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of a paper with our numbers in it; see `papers.Table` for the fields without a comment."""

    table: str  # name of conf/tables/<table>.yaml
    title: str
    source: str
    metric: str
    layout: str
    baseline: str
    baseline_apart: TableCell | None  # the baseline's cell, where it is in no row
    paper_sets: list[str]  # the paper's test sets, if it has several
    sets: list[str]  # our test sets; claims are judged on the first
    columns: list[str]
    rows: list[TableRow]
    claims: list[JudgedClaim]
    recipe: str = ""  # where it was measured
    command: str = ""  # and commit: what wrote it
    commit: str = ""
    findings: list[str] = field(default_factory=list)  # a sentence for each claim

    def cells(self) -> Iterator[TableCell]:
        """Iterate over the cells of all rows, and the baseline where it is in none."""
        for row in self.rows:
            yield from filter(None, row.cells)
        if self.baseline_apart:
            yield self.baseline_apart

    def measured(self) -> dict[str, Measured | None]:
        """Return all experiments, the controls last, with what we measured of them."""
        own = {cell.experiment: cell.ours for cell in self.cells()}
        own |= {cell.control.experiment: cell.control.ours for cell in self.cells() if cell.control}
        return own | {cell.experiment: cell.ours for row in self.rows for cell in row.controls or []}

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to tables/<table>.json."""
        return to_plain(self)

    @classmethod
    def read(cls, path: Path) -> PaperTable:
        """Read tables/<table>.json; UserError where it is missing or is not one."""
        advice = "write it again with local/reproduce.sh"
        return from_plain(cls, read_json(path, advice), str(path), advice)
