"""Numbers and intervals as they stand in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from residualformer.metrics.bootstrap import Score

NOTHING = "-"


def show_number(value: float | None, form: str, unit: float = 1, nothing: str = NOTHING) -> str:
    """Format `value` in multiples of `unit`."""
    return nothing if value is None else form.format(value if unit == 1 else value / unit)


def show_millions(value: float | None) -> str:
    """Format a count in millions."""
    return show_number(value, "{:.3f}", 1e6)


def show_percents(values: Iterable[float]) -> str:
    """Format percentages, separated by slashes."""
    return " / ".join(f"{value:.0f}" for value in values) or NOTHING


def show_score(score: Score | None, digits: int = 2) -> str:
    """Format a score with its interval, such as `9.50 [8.00, 11.25]`."""
    if score is None or score.value is None:
        return NOTHING
    value, low, high = (f"{x:.{digits}f}" for x in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def show_ends(low: float | None, high: float | None) -> str:
    """Format the interval of a gap, in which None is an infinite end."""
    return f"[{show_number(low, '{:+.1f}', nothing='-inf')}, {show_number(high, '{:+.1f}', nothing='inf')}]"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Format a Markdown table, a string for each line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
