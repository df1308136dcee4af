"""The papers' tables (conf/tables/*.yaml): the experiment in each cell, and the values that the paper prints there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import yaml

from residualformer.config.amnet import BranchControl
from residualformer.config.yaml_loader import load_yaml
from residualformer.errors import UserError, closest
from residualformer.files import read_text
from residualformer.metrics.bootstrap import relative_gap

METRICS = ["WER", "BLEU"]
LAYOUTS = ["grid", "lines"]
MEASURES = ["value", "mflop", "latency_ms"]


@dataclass(frozen=True)
class Cell:
    """A model of the paper, with the values that the paper prints for it, None where it prints none."""

    experiment: str  # its name in every recipe that has it
    label: str = ""  # what distinguishes it within its row, where the column's name does not tell
    value: float | list[float] | None = None  # WER in percent, or BLEU, one for each of the table's `sets`
    parameters: float | None = None  # of the Transformer layers or the recurrent encoder, in millions
    residual: float | None = None  # those of them that are residual weights, in millions
    control: str | None = None  # the experiment that is trained for as long without the residual weights
    compression: list[float] | None = None  # of AmNets, percent of the weights removed from each branch, slow first
    slow: float | None = None  # percent of the frames that take the slow branch
    mflop: float | None = None  # millions of FLOPs per frame
    latency_ms: float | None = None  # simulated

    @property
    def values(self) -> list[float]:
        """The printed value for each set; empty where the paper prints none."""
        return [] if self.value is None else self.value if isinstance(self.value, list) else [self.value]


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper reports, or that controls decide."""

    says: str  # the ordering in words
    pairs: list[list[str]]  # of experiments; the first of a pair is better than the second
    ours: bool = False  # the ordering is not the paper's, but about its models and our controls
    measure: str = "value"  # `value` (WER or BLEU), `mflop` or `latency_ms`
    at_most: float | None = None  # the first is at most this many times the second


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str
    cells: list[Cell | None]  # one for each column
    # Models that the paper lacks, by what distinguishes them: experiments, or for branches that an arbitrator did not
    # choose `<experiment>:<control>`. With layout `lines` alone.
    controls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of a paper."""

    name: str
    title: str
    source: str
    metric: str  # WER or BLEU
    baseline: str  # the experiment that gaps are relative to
    rows: list[Row]
    columns: list[str] = field(default_factory=lambda: [""])
    sets: list[str] = field(default_factory=list)  # the paper's test sets, if it has several
    baseline_values: list[float] = field(default_factory=list)  # printed for the baseline, where it is in no cell
    trained_on: str | None = None  # the baseline, trained for as long as models that start from another experiment
    layout: str = "grid"  # `grid` as printed, or `lines`: a line for each model and a column for each measure
    claims: list[Claim] = field(default_factory=list)

    def cells(self) -> Iterator[Cell]:
        """Iterate over the cells that are not empty."""
        for row in self.rows:
            yield from filter(None, row.cells)

    def cell(self, experiment: str) -> Cell:
        """Return the cell of `experiment`, also of a baseline that is in no cell; an empty one for any other."""
        values = self.baseline_values if experiment == self.baseline else []
        return next((cell for cell in self.cells() if cell.experiment == experiment), Cell(experiment, value=values))

    @property
    def experiments(self) -> list[str]:
        """All experiments that the table shows or compares with, each once, in its order."""
        shown = [name for cell in self.cells() for name in (cell.experiment, cell.control) if name]
        compared = [name for claim in self.claims for pair in claim.pairs for name in pair]
        names = [self.baseline, *shown, *self._controls(), *compared, *filter(None, [self.trained_on])]
        return list(dict.fromkeys(name.partition(":")[0] for name in names))

    def _controls(self) -> list[str]:
        return [name for row in self.rows for name in row.controls.values()]

    def arbitrator_controls(self) -> list[str]:
        """Return what chooses branches in place of an arbitrator, in any cell."""
        return list(dict.fromkeys(name.partition(":")[2] for name in self._controls() if ":" in name))


def find_table(folder: Path, name: str) -> Table:
    """Read the table `name` of `folder`: its file's name, or its number for short (3 for table3)."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    full = f"table{name}" if name.isdigit() else name
    if full not in known:
        raise UserError(f"there is no table '{name}' in {folder}; there are: {', '.join(known)}.{closest(full, known)}")
    return read_table(folder / f"{full}.yaml")


def read_table(path: Path) -> Table:
    """Read a table from a YAML file; UserError, which names the file, where it does not define a table."""
    advice = "see residualformer/report/papers.py"
    try:
        content = load_yaml(read_text(path, advice))
        rows = [
            Row(row["name"], [cell and Cell(**cell) for cell in row["cells"]], row.get("controls", {}))
            for row in content.pop("rows")
        ]
        claims = [Claim(**claim) for claim in content.pop("claims", [])]
        table = Table(name=path.stem, rows=rows, claims=claims, **content)
        problems = list(_problems(table))
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the definition of a table ({error}); {advice}.") from error
    for problem in problems:
        raise UserError(f"{path}: {problem}.")
    return table


def _problems(table: Table) -> Iterator[str]:
    choices = [("metric", table.metric, METRICS), ("layout", table.layout, LAYOUTS)]
    choices += [("measure", claim.measure, MEASURES) for claim in table.claims]
    for key, value, allowed in choices:
        if value not in allowed:
            yield f"{key} is '{value}'; it must be one of {', '.join(allowed)}"
    for row in table.rows:
        if len(row.cells) != len(table.columns):
            yield f"row '{row.name}' has {len(row.cells)} cells for {len(table.columns)} columns"
        if row.controls and table.layout != "lines":
            yield f"row '{row.name}' has controls, which only a table of layout lines shows"
    for control in table.arbitrator_controls():
        if control not in get_args(BranchControl):
            yield f"'{control}' chooses no branches; it must be one of {', '.join(get_args(BranchControl))}"
    for cell in table.cells():
        if cell.values and len(cell.values) != max(len(table.sets), 1):
            yield f"{cell.experiment} has {len(cell.values)} values for {max(len(table.sets), 1)} sets"
    for claim in table.claims:
        if not all(len(pair) == 2 for pair in claim.pairs):
            yield f"'{claim.says}' must compare pairs of experiments"


def paper_gaps(table: Table, cell: Cell) -> list[float]:
    """Return the cell's gap to the baseline for each set, from the printed values; empty for the baseline itself."""
    base = table.cell(table.baseline).values
    if cell.experiment == table.baseline or not base:
        return []
    return [relative_gap(x, b, table.metric == "BLEU") for x, b in zip(cell.values, base, strict=bool(cell.values))]
