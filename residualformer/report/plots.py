"""Pictures of trainings, of results and of a paper's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residualformer.files import read_log, replacing
from residualformer.metrics.bootstrap import Score
from residualformer.report.paper_table import Measured, PaperTable
from residualformer.report.results import Results

PANELS = {
    "nats / token": ("transducer_per_token", "simple_per_token", "ctc_per_token"),
    "dev, greedy": ("greedy_wer", "greedy_cer", "greedy_bleu", "greedy_chrf"),
    "learning rate": ("lr",),
}
METRICS = {"wer": "WER %", "bleu": "BLEU"}


def training_curves(metrics: Path, picture: Path) -> None:
    """Draw losses, error rate on the dev set and learning rate over the updates, from `metrics.jsonl`."""
    records = read_log(metrics)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4), layout="constrained")
    for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
        for name in names:
            for part, style in (("train", "-"), ("valid", "o--")):
                _curve(axis, records, f"{part}/{name}", style, label=f"{part}/{name}", markersize=3)
        axis.set(xlabel="update", ylabel=title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    save(figure, picture)


def dev_losses(metrics: Mapping[str, Path], picture: Path) -> bool:
    """Draw the transducer loss of the dev set over the updates of several trainings, by name.

    Return False, and draw nothing, when none was validated.
    """
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    for number, (name, path) in enumerate(metrics.items()):
        style = ("-", "--", ":")[number // 10 % 3]  # there are ten colors
        _curve(axis, read_log(path), "valid/transducer_per_token", style, label=name, marker="o", markersize=2)
    drawn = bool(axis.lines)
    if drawn:
        axis.set(xlabel="update", ylabel="dev, nats / token", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="x-small", ncols=2)
        save(figure, picture)
    plt.close(figure)
    return drawn


def _curve(axis: Axes, records: Sequence[Mapping[str, float]], key: str, style: str, **options: Any) -> None:
    """Draw the values of `key` over the updates, if there are any."""
    points = [(record["step"], record[key]) for record in records if key in record]
    if points:
        axis.plot(*zip(*points, strict=True), style, linewidth=1, **options)


class Point(NamedTuple):
    """A score as it is drawn over a size."""

    name: str
    size: float  # millions of parameters, or of FLOPs per frame
    value: float
    score: Score


def _points(scores: Iterable[tuple[str, float | None, Score | None]]) -> list[Point]:
    """Return those of (name, size, score) whose size and score are known."""
    return [Point(n, x, s.value, s) for n, x, s in scores if x is not None and s is not None and s.value is not None]


def against_parameters(results: Results, folder: Path, suffix: str = "") -> list[Path]:
    """Draw WER or BLEU with its interval over the encoder's parameters, a panel for each test set.

    Subsets are drawn as their mean. A line joins the models that no smaller or equally large one surpasses. Return the
    pictures, `wer_vs_params<suffix>.png` and `bleu_vs_params<suffix>.png`, of which some row has a score and a size.
    """
    pictures = []
    rows = [row for row in results.rows if row.encoder_parameters and "@" not in row.split and not row.control]
    for metric, label in METRICS.items():
        panels: dict[str, list[tuple[str, Point]]] = {}  # by test set: marker and point
        for row in rows:
            size, marker = (row.encoder_parameters or 0) / 1e6, "s" if row.search == "greedy" else "o"
            for point in _points([(row.experiment, size, row.scores.get(metric))]):
                panels.setdefault(row.split, []).append((marker, point))
        if not panels:
            continue
        figure, axes = _panels(len(panels), sharex=True)
        for axis, (split, points) in zip(axes, panels.items(), strict=True):
            for marker, point in points:
                _draw_points(axis, [point], fmt=marker)
            front = pareto_front([(point.size, point.value) for _, point in points], metric == "bleu")
            axis.step(*zip(*front, strict=True), where="post", color="0.7", linewidth=1, zorder=0)
            axis.set(
                xlabel="parameters of the encoder (Transformers: of its layers), millions",
                ylabel=f"{label}, 95% interval",
                title=f"{results.corpus}, {split} (circle: beam search, square: greedy)",
            )
        widest = max(point.size for points in panels.values() for _, point in points)
        axes[0].set_xlim(0, 1.15 * widest)  # room for the names
        pictures.append(folder / f"{metric}_vs_params{suffix}.png")
        save(figure, pictures[-1])
    return pictures


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool = False) -> list[tuple[float, float]]:
    """Return the points (size, score) that no other point of the same or a smaller size surpasses, by size."""
    sign = -1 if higher_is_better else 1
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * score < sign * front[-1][1]:
            front.append((size, score))
    return front


def table_lines(table: PaperTable, picture: Path) -> bool:
    """Draw the scores of a paper's table over the parameters, or over the FLOPs per frame if all models are AmNets.

    Each row is a line, its controls a dashed one, each test set a panel. Return False when nothing was measured.
    """
    measured = [cell.ours for row in table.rows for cell in row.cells if cell and cell.ours]
    sets = [name for name in table.sets if any(name in ours.sets for ours in measured)]
    if not sets:
        return False
    flops = all(scores.amnet for ours in measured for scores in ours.sets.values())
    figure, axes = _panels(len(sets))
    for axis, split in zip(axes, sets, strict=True):
        for number, row in enumerate(table.rows):
            cells = [(column, cell) for column, cell in zip(table.columns, row.cells, strict=False) if cell]
            own = [("" if flops else cell.label or column, cell.ours) for column, cell in cells]
            controls = [("", cell.control.ours) for _, cell in cells if cell.control]
            further = [(cell.label, cell.ours) for cell in row.controls or []]
            for models, style, label in (
                (own, "o-", row.name),
                (controls, "x--", f"{row.name}: controls"),
                (further, "x", f"{row.name}: controls"),
            ):
                if points := _points(_sized(name, ours, split, flops) for name, ours in models if ours):
                    _draw_points(axis, points, fmt=style, color=f"C{number}", label=label, linewidth=1)
        axis.set(
            xlabel="FLOPs per frame, millions" if flops else "parameters of the Transformer layers, millions",
            ylabel=f"{table.metric}, 95% interval",
            title=f"{table.recipe}, {table.table}, {split}",
        )
        axis.margins(x=0.12)  # room for the names
        axis.legend(fontsize="small")
    save(figure, picture)
    return True


def _sized(name: str, ours: Measured, split: str, flops: bool) -> tuple[str, float | None, Score | None]:
    """Return name, size and score of an experiment on a test set; the size is of FLOPs per frame or of parameters."""
    scores = ours.sets.get(split)
    if flops:
        size = scores.amnet.mflop if scores and scores.amnet else None
    else:
        size = None if ours.parameters is None else ours.parameters / 1e6
    return name, size, scores.value if scores else None


def _panels(count: int, sharex: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of `count` panels side by side."""
    size = (7 * count, 4.5)
    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained", sharex=sharex, squeeze=False)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    return figure, axes[0]


def _draw_points(axis: Axes, points: Sequence[Point], **options: Any) -> None:
    """Draw scores with their intervals and names."""
    sizes, values = [point.size for point in points], [point.value for point in points]
    axis.errorbar(sizes, values, yerr=_arms([point.score for point in points]), capsize=3, **options)
    for point in points:
        axis.annotate(point.name, (point.size, point.value), xytext=(5, 4), textcoords="offset points", fontsize=8)


def _arms(scores: Sequence[Score]) -> np.ndarray:
    """Return how far the intervals reach below and above their values (2, N), at least 0.

    A value can lie outside its interval: if there are few utterances, or by rounding if all score alike.
    """
    value, low, high = np.array([[score.value, score.low, score.high] for score in scores], dtype=float).T
    return np.maximum([value - low, high - value], 0.0)


def save(figure: Figure, picture: Path) -> None:
    """Write a figure as a picture, at once, and close it."""
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
