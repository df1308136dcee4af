"""Pictures of a training and of a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from residualformer.files import read_log, replacing

PANELS = {
    "nats / token": ("transducer_per_token", "simple_per_token", "ctc_per_token"),
    "dev, greedy": ("greedy_wer", "greedy_cer", "greedy_bleu", "greedy_chrf"),
    "learning rate": ("lr",),
}


def training_curves(metrics: Path, picture: Path) -> None:
    """Losses, dev error rate and learning rate over the updates, from `metrics.jsonl`."""
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


MEASURES = {"wer": "WER %", "bleu": "BLEU"}


def against_parameters(results: dict[str, Any], folder: Path, suffix: str = "") -> list[Path]:
    """WER (`wer_vs_params<suffix>.png`), or BLEU, with its interval over the encoder's parameters, a panel for a set.

    Gives the pictures; there is none when no row has both. The parameters of a Transformer are the layers', those of a
    recurrent encoder all, less what is pruned (see `cost.py`). A subset is drawn in its set's mean. A line joins the
    models that none of at most their size surpasses.
    """
    pictures = []
    for measure, label in MEASURES.items():
        panels: dict[str, list[dict[str, Any]]] = {}
        for row in results["rows"]:
            if _encoder(row) and row.get(measure, {}).get("value") is not None and "@" not in row["split"]:
                panels.setdefault(row["split"], []).append(row)
        if panels:
            pictures.append(folder / f"{measure}_vs_params{suffix}.png")
            _draw_panels(panels, measure, label, results["corpus"], pictures[-1])
    return pictures


def _draw_panels(panels: dict[str, list[dict[str, Any]]], measure: str, label: str, corpus: str, picture: Path) -> None:
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7 * len(panels), 4.5), layout="constrained", sharex=True, squeeze=False
    )
    for axis, (split, rows) in zip(axes[0], panels.items(), strict=True):
        for row in rows:
            score, millions = row[measure], _encoder(row) / 1e6
            marker = "s" if row["search"] == "greedy" else "o"
            axis.errorbar(millions, score["value"], yerr=_arms([score]), fmt=marker, capsize=4)
            place = (millions, score["value"])
            axis.annotate(row["experiment"], place, xytext=(6, 4), textcoords="offset points", fontsize=8)
        front = pareto_front([(_encoder(row) / 1e6, row[measure]["value"]) for row in rows], measure == "bleu")
        axis.step(*zip(*front, strict=True), where="post", color="0.7", linewidth=1, zorder=0)
        axis.set(
            xlabel="parameters of the encoder (Transformers: of its layers), millions",
            ylabel=f"{label}, 95% interval",
            title=f"{corpus}, {split} (circle: beam search, square: greedy)",
        )
        axis.grid(alpha=0.3)
    widest = max(_encoder(row) for rows in panels.values() for row in rows) / 1e6
    axes[0, 0].set_xlim(0, 1.15 * widest)  # room for the names
    _save(figure, picture)


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool = False) -> list[tuple[float, float]]:
    """Of (size, score) those that no other of at most their size surpasses, by size."""
    sign = -1 if higher_is_better else 1
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * score < sign * front[-1][1]:
            front.append((size, score))
    return front


def table_lines(result: dict[str, Any], picture: Path) -> bool:
    """A table's scores with their intervals, a line for each row (dashed: its controls), a panel for each test set.

    Over the parameters, or for AmNets over the FLOPs per frame. False when nothing was measured.

    Args:
        result: what `steps/table.py` writes as JSON.
    """
    measured = [cell["ours"] for row in result["rows"] for cell in row["cells"] if cell and cell["ours"]]
    sets = [name for name in result["sets"] if any(name in ours["sets"] for ours in measured)]
    if not sets:
        return False
    flops = all("amnet" in scores for ours in measured for scores in ours["sets"].values())
    figure, axes = plt.subplots(1, len(sets), figsize=(7 * len(sets), 4.5), layout="constrained", squeeze=False)
    for axis, split in zip(axes[0], sets, strict=True):
        for number, row in enumerate(result["rows"]):
            cells = [(column, cell) for column, cell in zip(result["columns"], row["cells"], strict=False) if cell]
            own = [("" if flops else cell["label"] or column, cell["ours"]) for column, cell in cells]
            controls = [("", cell["control"]["ours"]) for _, cell in cells if cell.get("control")]
            _line(axis, own, split, flops, fmt="o-", color=f"C{number}", label=row["name"])
            _line(axis, controls, split, flops, fmt="x--", color=f"C{number}", label=f"{row['name']}: controls")
        axis.set(
            xlabel="FLOPs per frame, millions" if flops else "parameters of the Transformer layers, millions",
            ylabel=f"{result['metric']}, 95% interval",
            title=f"{result['recipe']}, {result['table']}, {split}",
        )
        axis.margins(x=0.12)  # room for the names
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    _save(figure, picture)
    return True


def _line(axis: Axes, points: list[tuple[str, dict[str, Any] | None]], split: str, flops: bool, **style: str) -> None:
    """One line through the named experiments, as `reproduce` gives them, where they were measured and have a size."""
    sized = [(name, ours) for name, ours in points if ours and (flops or ours["parameters"] is not None)]
    found = [(name, ours, ours["sets"][split]) for name, ours in sized if split in ours["sets"]]
    if not found:
        return
    sizes = [scores["amnet"]["mflop"] if flops else ours["parameters"] / 1e6 for _, ours, scores in found]
    values = [scores["value"] for _, _, scores in found]
    heights = [value["value"] for value in values]
    axis.errorbar(sizes, heights, yerr=_arms(values), capsize=3, linewidth=1, **style)
    for (name, _, _), place in zip(found, zip(sizes, heights, strict=True), strict=True):
        axis.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)


def _arms(scores: Sequence[dict[str, float]]) -> np.ndarray:
    """How far the intervals reach below and above their values (2, N): never less than nothing.

    Of few utterances a bootstrap's interval can lie beside the value of all; rounding does that where all are alike.
    """
    value, low, high = np.array([[score[key] for key in ("value", "low", "high")] for score in scores]).T
    return np.maximum([value - low, high - value], 0.0)


def dev_losses(metrics: dict[str, Path], picture: Path) -> bool:
    """Transducer loss of the dev set over the updates of several trainings, by name; False when none was validated."""
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    for number, (name, path) in enumerate(metrics.items()):
        key = "valid/transducer_per_token"
        points = [(record["step"], record[key]) for record in read_log(path) if key in record]
        if points:
            style = ("-", "--", ":")[number // 10 % 3]  # there are ten colours
            axis.plot(*zip(*points, strict=True), style, label=name, linewidth=1, marker="o", markersize=2)
    drawn = bool(axis.lines)
    if drawn:
        axis.set(xlabel="update", ylabel="dev, nats / token", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="x-small", ncols=2)
        _save(figure, picture)
    plt.close(figure)
    return drawn


def _encoder(row: dict[str, Any]) -> int | None:
    return row["parameters"].get("transformer", row["parameters"].get("encoder"))


class Track(NamedTuple):
    """What one model did with an utterance of T encoder frames."""

    name: str
    decisions: np.ndarray  # (T,), 0 = the slow branch
    backlog_s: np.ndarray  # (T,), left when the next frame comes; the last is the latency
    frame_s: float  # seconds of an encoder frame
    num_branches: int


def decisions_and_backlog(
    features: np.ndarray, frame_shift_s: float, tracks: Sequence[Track], title: str, picture: Path
) -> None:
    """An utterance's spectrogram (features (T, F)), the branch that each model took for each frame, and its backlog.

    The backlog (AmNets, eq. 7, and figure 2) ends with the last frame; its height there is the latency, in which it
    runs out at one second per second (dotted).
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
    """One strip per model, dark where it took the slow branch."""
    branches = max(track.num_branches for track in tracks)
    shades = plt.get_cmap("Blues")
    levels = np.linspace(0.9, 0.15, branches)
    for row, track in enumerate(tracks):
        colours = shades(levels[track.decisions])[None, :, :3]
        end = len(track.decisions) * track.frame_s
        axis.imshow(colours, aspect="auto", interpolation="nearest", extent=(0, end, row + 0.42, row - 0.42))
    axis.set(ylim=(len(tracks) - 0.5, -0.5))
    axis.set_yticks(range(len(tracks)), [f"{t.name}, {np.mean(t.decisions == 0):.0%} slow" for t in tracks])
    names = ["slow", *(f"branch {n}" for n in range(1, branches - 1)), "fast"]
    for index, label in enumerate(axis.get_yticklabels()):
        label.set_color(f"C{index}")
    patches = [Patch(color=shades(level), label=name) for level, name in zip(levels, names, strict=True)]
    axis.legend(handles=patches, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _draw_backlogs(axis: Axes, tracks: Sequence[Track]) -> None:
    """The same colours as the names of the strips above."""
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


def _save(figure: plt.Figure, picture: Path) -> None:
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
