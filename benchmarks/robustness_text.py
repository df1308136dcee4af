"""What `robustness.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from residualformer.report.format import markdown_table

GROUP_TITLES = {
    "level": "Level: the gain of a recording of 16 bits, clipped where it is too loud",
    "telephone": "Telephone",
    "pause": "Two utterances with a pause between them",
    "continuous": "Continuous speech",
}


def render(found: Mapping[str, Any]) -> str:
    """Return the tables of a result of `robustness.py`."""
    models = list(found["models"])
    lines = ["<!-- Written by benchmarks/robustness.py from robustness.json. Do not edit. -->", "# Robustness", ""]
    lines += [
        f"{found['test']}: {found['utterances']} utterances, {found['pairs']} pairs of them, minutes of continuous "
        f"speech: {found['minutes']}; drawn with seed {found['seed']}. Pauses are {_pause(found['pause_db'])}.",
        "",
        f"`{found['command']}` at commit {found['commit']}, {found['hardware']}.",
        "",
        *(f"- **{name}**: {entry['what']}, {entry['search']}" for name, entry in found["models"].items()),
        "",
        "In brackets: times the WER of the same utterances as they are, one by one, with its 95% interval from the "
        "paired bootstrap over utterances or pairs; the goal is at most the number beside the title.",
        "",
    ]
    rows = found["rows"]
    clean = {name: _of(rows, name, "as it is")[0] for name in models}
    lines += markdown_table(["as they are", *models], [["WER %", *(f"{clean[name]['wer']:.1f}" for name in models)]])
    for group, title in GROUP_TITLES.items():
        if any(row["group"] == group for row in rows):
            lines += ["", f"## {title}", "", *_table(rows, models, group)]
    return "\n".join(lines) + "\n"


def _pause(pause_db: float | None) -> str:
    return "digital silence" if pause_db is None else f"white noise of {pause_db:g} dB of full scale"


def _of(rows: Sequence[Mapping[str, Any]], model: str, group: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["model"] == model and row["group"] == group]


def _table(rows: Sequence[Mapping[str, Any]], models: Sequence[str], group: str) -> list[str]:
    """Return a table with a line for each condition and variant, and the columns of each model."""
    cells = {(row["condition"], row["variant"], row["model"]): row for row in rows if row["group"] == group}
    keys = dict.fromkeys((condition, variant) for condition, variant, _ in cells)
    has_lost = group == "pause"
    goal = next(row["goal"] for row in cells.values())
    header = [f"WER % (goal {goal:g})"]
    for name in models:
        header += [name, "first word lost"] if has_lost else [name]
    lines = []
    for condition, variant in keys:
        line = [f"{condition}, {variant}" if variant else condition]
        for name in models:
            row = cells.get((condition, variant, name))
            line.append(f"{row['wer']:.1f} ({_ratio(row)})" if row else "-")
            if has_lost:
                line.append(f"{row['lost']} of {row['lost_of']}" if row else "-")
        lines.append(line)
    return markdown_table(header, lines)


def _ratio(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return "-"
    low, high = ("inf" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio_low", "ratio_high"))
    return f"{row['ratio']:.2f} [{low}, {high}]"
