"""Pictures of a training and of a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt  # noqa: E402

from residualformer.files import read_log, replacing  # noqa: E402

PANELS = {
    "nats / token": ("transducer_per_token", "simple_per_token", "ctc_per_token"),
    "dev WER %, greedy": ("greedy_wer",),
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


def wer_against_parameters(results: dict[str, Any], picture: Path) -> bool:
    """WER with its interval over the Transformer's parameters; False when no row has both."""
    rows = [row for row in results["rows"] if row["parameters"] and row.get("wer", {}).get("value") is not None]
    if not rows:
        return False
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for row in rows:
        wer, millions = row["wer"], row["parameters"]["transformer"] / 1e6
        distances = [[wer["value"] - wer["low"]], [wer["high"] - wer["value"]]]
        marker = "s" if row["search"] == "greedy" else "o"
        axis.errorbar(millions, wer["value"], yerr=distances, fmt=marker, capsize=4)
        place = (millions, wer["value"])
        axis.annotate(row["experiment"], place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axis.set(
        xlabel="parameters of the Transformer, millions",
        ylabel="WER %, 95% interval",
        title=f"{results['corpus']}, {results['split']} (circle: beam search, square: greedy)",
    )
    widest = max(row["parameters"]["transformer"] for row in rows) / 1e6
    axis.set_xlim(0, 1.15 * widest)  # room for the names
    axis.grid(alpha=0.3)
    _save(figure, picture)
    return True


def _save(figure: plt.Figure, picture: Path) -> None:
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
