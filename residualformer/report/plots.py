"""Pictures of trainings, of results and of a paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from residualformer.files import read_log, replacing
from residualformer.metrics.bootstrap import Score
from residualformer.report.paper_table import Measured, PaperTable, SetScores
from residualformer.report.results import Results, Row

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
                key = f"{part}/{name}"
                points = [(record["step"], record[key]) for record in records if key in record]
                if points:
                    axis.plot(*zip(*points, strict=True), style, label=key, markersize=3, linewidth=1)
        axis.set(xlabel="update", ylabel=title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    _save(figure, picture)


def dev_losses(metrics: Mapping[str, Path], picture: Path) -> bool:
    """Draw the transducer loss of the dev set over the updates of several trainings, by name.

    Return False, and draw nothing, when none was validated.
    """
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    for number, (name, path) in enumerate(metrics.items()):
        key = "valid/transducer_per_token"
        points = [(record["step"], record[key]) for record in read_log(path) if key in record]
        if points:
            style = ("-", "--", ":")[number // 10 % 3]  # there are ten colors
            axis.plot(*zip(*points, strict=True), style, label=name, linewidth=1, marker="o", markersize=2)
    drawn = bool(axis.lines)
    if drawn:
        axis.set(xlabel="update", ylabel="dev, nats / token", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="x-small", ncols=2)
        _save(figure, picture)
    plt.close(figure)
    return drawn


def against_parameters(results: Results, folder: Path, suffix: str = "") -> list[Path]:
    """Draw WER or BLEU with its interval over the encoder's parameters, a panel for each test set.

    A subset is drawn in its set's mean. A line joins the models that no smaller or equally large one surpasses.

    Args:
        folder, suffix: the pictures are `wer_vs_params<suffix>.png` and `bleu_vs_params<suffix>.png`.

    Returns:
        The pictures; none when no row has both a score and a size.
    """
    pictures = []
    for metric, label in METRICS.items():
        panels: dict[str, list[Point]] = {}
        for row in results.rows:
            score, size = row.scores.get(metric), row.encoder_parameters
            if size and score and score.value is not None and "@" not in row.split:
                panels.setdefault(row.split, []).append(Point(row, size / 1e6, score.value, score))
        if panels:
            pictures.append(folder / f"{metric}_vs_params{suffix}.png")
            _draw_panels(panels, metric, label, results.corpus, pictures[-1])
    return pictures


class Point(NamedTuple):
    """A row as it is drawn over the parameters."""

    row: Row
    millions: float
    value: float
    score: Score


def _draw_panels(panels: dict[str, list[Point]], metric: str, label: str, corpus: str, picture: Path) -> None:
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7 * len(panels), 4.5), layout="constrained", sharex=True, squeeze=False
    )
    for axis, (split, points) in zip(axes[0], panels.items(), strict=True):
        for row, millions, value, score in points:
            marker = "s" if row.search == "greedy" else "o"
            axis.errorbar(millions, value, yerr=_arms([score]), fmt=marker, capsize=4)
            axis.annotate(row.experiment, (millions, value), xytext=(6, 4), textcoords="offset points", fontsize=8)
        front = pareto_front([(point.millions, point.value) for point in points], metric == "bleu")
        axis.step(*zip(*front, strict=True), where="post", color="0.7", linewidth=1, zorder=0)
        axis.set(
            xlabel="parameters of the encoder (Transformers: of its layers), millions",
            ylabel=f"{label}, 95% interval",
            title=f"{corpus}, {split} (circle: beam search, square: greedy)",
        )
        axis.grid(alpha=0.3)
    widest = max(point.millions for points in panels.values() for point in points)
    axes[0, 0].set_xlim(0, 1.15 * widest)  # room for the names
    _save(figure, picture)


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool = False) -> list[tuple[float, float]]:
    """Return those of (size, score) that no other of at most their size surpasses, by size."""
    sign = -1 if higher_is_better else 1
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * score < sign * front[-1][1]:
            front.append((size, score))
    return front


def table_lines(table: PaperTable, picture: Path) -> bool:
    """Draw the scores of a paper's table, a line for each row (dashed: its controls), a panel for each test set.

    They stand over the parameters, those of AmNets over the FLOPs per frame. Return False when nothing was measured.
    """
    measured = [cell.ours for row in table.rows for cell in row.cells if cell and cell.ours]
    sets = [name for name in table.sets if any(name in ours.sets for ours in measured)]
    if not sets:
        return False
    flops = all(scores.amnet for ours in measured for scores in ours.sets.values())
    figure, axes = plt.subplots(1, len(sets), figsize=(7 * len(sets), 4.5), layout="constrained", squeeze=False)
    for axis, split in zip(axes[0], sets, strict=True):
        for number, row in enumerate(table.rows):
            cells = [(column, cell) for column, cell in zip(table.columns, row.cells, strict=False) if cell]
            own = [("" if flops else cell.label or column, cell.ours) for column, cell in cells]
            controls = [("", cell.control.ours) for _, cell in cells if cell.control]
            _line(axis, own, split, flops, "o-", f"C{number}", row.name)
            _line(axis, controls, split, flops, "x--", f"C{number}", f"{row.name}: controls")
        axis.set(
            xlabel="FLOPs per frame, millions" if flops else "parameters of the Transformer layers, millions",
            ylabel=f"{table.metric}, 95% interval",
            title=f"{table.recipe}, {table.table}, {split}",
        )
        axis.margins(x=0.12)  # room for the names
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    _save(figure, picture)
    return True


def _line(
    axis: Axes,
    points: Sequence[tuple[str, Measured | None]],
    split: str,
    flops: bool,
    style: str,
    color: str,
    label: str,
) -> None:
    """Draw a line through the named experiments that were measured on `split` and have a size."""
    found: list[tuple[str, float, Score]] = []
    for name, ours in points:
        scores = ours.sets.get(split) if ours else None
        size = _size(ours, scores, flops) if ours and scores else None
        if scores and size is not None and scores.value.value is not None:
            found.append((name, size, scores.value))
    if not found:
        return
    sizes, heights = [size for _, size, _ in found], [score.value or 0.0 for _, _, score in found]
    arms = _arms([score for _, _, score in found])
    axis.errorbar(sizes, heights, yerr=arms, fmt=style, color=color, label=label, capsize=3, linewidth=1)
    for (name, _, _), place in zip(found, zip(sizes, heights, strict=True), strict=True):
        axis.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)


def _size(ours: Measured, scores: SetScores, flops: bool) -> float | None:
    """Return millions of FLOPs per frame, or of parameters."""
    if flops:
        return scores.amnet.mflop if scores.amnet else None
    return None if ours.parameters is None else ours.parameters / 1e6


def _arms(scores: Sequence[Score]) -> np.ndarray:
    """Return how far the intervals reach below and above their values (2, N), at least 0.

    Of few utterances a bootstrap's interval can lie beside the value of all; rounding does that where all are alike.
    """
    value, low, high = np.array([[score.value, score.low, score.high] for score in scores], dtype=float).T
    return np.maximum([value - low, high - value], 0.0)


class Track(NamedTuple):
    """The branches and the backlog of one model on an utterance of T encoder frames."""

    name: str
    decisions: np.ndarray  # (T,), 0 = the slow branch
    backlog_s: np.ndarray  # (T,), seconds of work left when the next frame arrives; the last is the latency
    frame_s: float  # seconds of an encoder frame
    num_branches: int


def decisions_and_backlog(
    features: np.ndarray, frame_shift_s: float, tracks: Sequence[Track], title: str, picture: Path
) -> None:
    """Draw an utterance's features (T, F), the branch that each model took for each frame, and its backlog.

    The height of the backlog (AmNets, eq. 7 and figure 2) at the last frame is the latency, after which no work is left
    (dotted).
    """
    heights = (2.2, 0.4 + 0.32 * len(tracks), 3.2)
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, sharex=True, figsize=(11, 1.2 + sum(heights)), height_ratios=heights, layout="constrained"
    )
    duration = len(features) * frame_shift_s
    top.imshow(
        features.T, origin="lower", aspect="auto", extent=(0, duration, 0, features.shape[1]), cmap="magma",
        vmin=np.percentile(features, 5),
    )  # fmt: skip
    top.set(ylabel="mel bin", title=title)
    _draw_decisions(middle, tracks)
    _draw_backlogs(bottom, tracks)
    bottom.set_xlim(0, max(len(t.decisions) * t.frame_s + min(t.backlog_s[-1], 0.25 * duration) for t in tracks))
    _save(figure, picture)


def _draw_decisions(axis: Axes, tracks: Sequence[Track]) -> None:
    """Draw a strip for each model, dark where it took the slow branch."""
    branches = max(track.num_branches for track in tracks)
    shades = plt.get_cmap("Blues")
    levels = np.linspace(0.9, 0.15, branches)
    for row, track in enumerate(tracks):
        colors = shades(levels[track.decisions])[None, :, :3]
        end = len(track.decisions) * track.frame_s
        axis.imshow(colors, aspect="auto", interpolation="nearest", extent=(0, end, row + 0.42, row - 0.42))
    axis.set(ylim=(len(tracks) - 0.5, -0.5))
    axis.set_yticks(range(len(tracks)), [f"{t.name}, {np.mean(t.decisions == 0):.0%} slow" for t in tracks])
    names = ["slow", *(f"branch {n}" for n in range(1, branches - 1)), "fast"]
    for index, label in enumerate(axis.get_yticklabels()):
        label.set_color(f"C{index}")
    patches = [Patch(color=shades(level), label=name) for level, name in zip(levels, names, strict=True)]
    axis.legend(handles=patches, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _draw_backlogs(axis: Axes, tracks: Sequence[Track]) -> None:
    """Draw the backlogs in the colors of the names of the strips above."""
    for index, track in enumerate(tracks):
        times = np.arange(len(track.backlog_s) + 1) * track.frame_s
        left_ms = 1e3 * np.concatenate([[0.0], track.backlog_s])
        latency = f"{track.name}: {left_ms[-1]:.0f} ms"
        axis.plot(times, left_ms, color=f"C{index}", linewidth=1.2, label=latency)
        axis.plot([times[-1], times[-1] + track.backlog_s[-1]], [left_ms[-1], 0], ":", color=f"C{index}")
        axis.axvline(times[-1], color="0.5", linewidth=0.8, zorder=0)
    axis.set(xlabel="time, s", ylabel="backlog, ms of work")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(title="latency", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _save(figure: Figure, picture: Path) -> None:
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
