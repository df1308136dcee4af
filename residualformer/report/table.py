"""Results as text: an aligned table for the terminal and RESULTS.md; pure functions of results.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

COLUMNS: dict[str, Callable[[Row], str]] = {
    "set": lambda row: row["split"],
    "experiment": lambda row: row["experiment"],
    "search": lambda row: row["run"].removeprefix(f"decode_{row['split']}_"),
    "WER % [95%]": lambda row: show_interval(row.get("wer")),
    "ins/del/sub": lambda row: _counts(row.get("wer")),
    "CER % [95%]": lambda row: show_interval(row.get("cer")),
    "BLEU [95%]": lambda row: show_interval(row.get("bleu")),
    "chrF [95%]": lambda row: show_interval(row.get("chrf")),
    "vs baseline": lambda row: _relative(row),
    "p": lambda row: show_number(row.get("p_value"), "{:.3f}"),
    "nats/token [95%]": lambda row: show_interval(row.get("loss"), 3),
    "nats vs baseline": lambda row: _relative(row, "loss_"),
    "p (nats)": lambda row: show_number(row.get("loss_p_value"), "{:.3f}"),
    "Transformer M": lambda row: _millions(row, "transformer"),
    "residual M": lambda row: _millions(row, "residual"),
    "encoder M": lambda row: _millions(row, "encoder"),
    "total M": lambda row: _millions(row, "total"),
    "compression %": lambda row: _percentages(row, "compression", 1),
    "branches %": lambda row: _percentages(row, "shares", 2),
    "MFLOP/frame": lambda row: _flops(row.get("amnet")),
    "latency ms": lambda row: _latency(row.get("amnet")),
    "updates": lambda row: show_number(row["training"].get("steps"), "{}"),
    "training min": lambda row: show_number(row["training"].get("wall_s"), "{:.1f}", 60),
    "RTF": lambda row: show_number(row.get("decoding", {}).get("rtf"), "{:.3f}"),
    "missing": lambda row: str(row["missing"]),
}
NOTHING = "-"


def cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table; a column in which no row has a value, or a single set's name, is left out."""
    rows = results["rows"]
    table = {name: [show(row) for row in rows] for name, show in COLUMNS.items()}
    kept = {name: column for name, column in table.items() if not set(column) <= {NOTHING}}
    for name, told_elsewhere in (("missing", set(kept["missing"]) == {"0"}), ("set", len(set(kept["set"])) == 1)):
        if told_elsewhere:
            del kept[name]
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def aligned(results: dict[str, Any]) -> str:
    """The table with padded columns, for a terminal."""
    header, rows = cells(results)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def render_markdown(results: dict[str, Any]) -> str:
    """RESULTS.md."""
    header, rows = cells(results)
    lines = [
        "<!-- Written by local/score.sh from results.json. Do not edit. -->",
        f"# Results: {results['corpus']}, {results['split']}",
        "",
        _scope(results),
        "",
        markdown_line(header),
        markdown_line(["---"] * len(header)),
        *map(markdown_line, rows),
        "",
    ]
    lines += [note + "\n" for note in _notes(results)]
    for name in dict.fromkeys(row["experiment"] for row in results["rows"]):
        lines += _experiment(name, [row for row in results["rows"] if row["experiment"] == name])
    return "\n".join(lines).rstrip() + "\n"


def _scope(results: dict[str, Any]) -> str:
    first = {row["split"]: row for row in reversed(results["rows"])}  # of each set, its first row
    sizes = []
    for split, row in reversed(first.items()):
        words = f", {row['words']} words" if "words" in row else ""
        mean = f" (mean over {', '.join(row['subsets'])})" if "subsets" in row else ""
        sizes.append((f"{split}{mean}: " if len(first) > 1 else "") + f"{row['utterances']} utterances{words}")
    return f"{'; '.join(sizes)}. Scored by `{results['command']}` at commit {results['commit']}."


def _notes(results: dict[str, Any]) -> list[str]:
    rows = results["rows"]
    notes = ["[95%]: bootstrap over utterances. Texts are compared as they are."]
    if any(row.get("relative") is not None for row in rows):
        names = [f"`{name}`" for name in results["baseline"].split(", ")]
        kinds = (" (Transformers)", " (recurrent encoders)") if len(names) == 2 else ("",)
        of = " or ".join(name + kind for name, kind in zip(names, kinds, strict=True))
        notes.append(
            f"vs baseline: relative difference to the {' or '.join(_measures(rows))} of {of} with the same search "
            "(positive is worse), with its 95% interval; p: two-sided; both from the paired bootstrap. Where the "
            "settings of the search, the utterances or the references differ, there is none."
        )
    if any("loss" in row for row in rows):
        notes.append(
            "nats/token: transducer loss of the references over all alignments, a finer measure than errors; of "
            "utterances that were decoded."
        )
    if any("transformer" in row["parameters"] for row in rows):
        notes.append(
            "Transformer: projections of the Transformer layers with their biases and residual parts, a shared one "
            "counted once; total: all that decoding needs."
        )
    notes += _amnet_notes(rows)
    if any(row["missing"] for row in rows):
        notes.append("missing: utterances that could not be decoded; each counts as an empty hypothesis.")
    for key in ("bleu", "chrf"):
        notes += sorted({f"{key}: `{row[key]['signature']}`" for row in rows if key in row})
    return notes


def _measures(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in rows))


def _amnet_notes(rows: list[Row]) -> list[str]:
    """What the columns of recurrent encoders mean."""
    notes = []
    if any("encoder" in row["parameters"] for row in rows):
        pruned = [row for row in rows if row["parameters"].get("pruned")]
        held = [f"{row['experiment']} {_millions(row, 'pruned')}M" for row in pruned]
        zeros = f", without its pruned weights ({', '.join(dict.fromkeys(held))})" if held else ""
        notes.append(
            "encoder: the recurrent encoder with its arbitrator and its projection to the joint network, factors that "
            f"branches share counted once{zeros}; total: all that decoding needs."
        )
    costs = [row["amnet"] for row in rows if row.get("amnet")]
    if costs:
        devices = sorted({(cost["mu"] / 1e6, cost["mu"] / cost["rho"] / 1e6) for cost in costs})
        device = " or ".join(f"{mu:g} MFLOP/s, of which {free:.4g} MFLOP are free per frame" for mu, free in devices)
        notes += [
            "compression: share of the weights of each branch that are gone, slow / fast; branches: share of the test "
            "frames that took each; MFLOP/frame: multiply-accumulates of the encoder per encoder frame, arbitrator and "
            "projection included, averaged over these frames, and the difference to `rnnt`.",
            "latency: mean (median, 90th, 99th percentile of the utterances) of the work that is left one frame after "
            f"the last frame came in, simulated from the decisions taken, on a device of {device}.",
        ]
    return notes


def _experiment(name: str, rows: list[Row]) -> list[str]:
    """How one experiment was trained and decoded."""
    lines = [f"## {name}", ""] + ([rows[0]["description"].strip(), ""] if rows[0]["description"] else [])
    training = dict(rows[0]["training"])
    if "command" in training:
        lines.append(f"- trained by `{training.pop('command')}`")
    if "wall_s" in training:
        cpu = f", {training.pop('cpu_s') / 60:.1f} min of CPU" if "cpu_s" in training else ""
        training["time"] = f"{training.pop('wall_s') / 60:.1f} min{cpu}"
    lines += [f"- {key}: {value}" for key, value in training.items()]
    for row in rows:
        decoding = row["decoding"]
        if decoding:
            settings = ", ".join(f"{key} {value}" for key, value in decoding.get("settings", {}).items())
            where = f"{decoding.get('wall_s')} s for {decoding.get('audio_s')} s of audio on {decoding.get('hardware')}"
            lines.append(f"- {row['run']}: {settings}; {where}; commit {decoding.get('commit')}")
    return [*lines, ""]


def show_interval(value: Row | None, digits: int = 2) -> str:
    if not value or value["value"] is None:
        return NOTHING
    number, low, high = (f"{value[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{number} [{low}, {high}]"


def _relative(row: Row, prefix: str = "") -> str:
    """Gap to the baseline with its interval, where that is known."""
    relative, low, high = (row.get(f"{prefix}relative{end}") for end in ("", "_low", "_high"))
    interval = "" if low is high is None else " " + show_ends(low, high)
    return NOTHING if relative is None else f"{relative:+.1f}%{interval}"


def show_ends(low: float | None, high: float | None) -> str:
    """The interval of a gap; an end that is None is infinite."""
    return f"[{show_number(low, '{:+.1f}', nothing='-inf')}, {show_number(high, '{:+.1f}', nothing='inf')}]"


def _counts(value: Row | None) -> str:
    kinds = ("insertions", "deletions", "substitutions")
    return "/".join(str(value[kind]) for kind in kinds) if value and kinds[0] in value else NOTHING


def show_number(value: float | None, form: str, unit: float | None = None, nothing: str = NOTHING) -> str:
    return nothing if value is None else form.format(value if unit is None else value / unit)


def _millions(row: Row, key: str) -> str:
    value = row["parameters"].get(key)
    return NOTHING if value is None else f"{value / 1e6:.3f}"


def _percentages(row: Row, key: str, fewest: int) -> str:
    """Shares as percentages, slow branch first; nothing where there are fewer than `fewest`."""
    values = (row.get("amnet") or {}).get(key, [])
    return " / ".join(f"{100 * value:.0f}" for value in values) if len(values) >= fewest else NOTHING


def _flops(amnet: Row | None) -> str:
    if not amnet:
        return NOTHING
    saving = f" ({-amnet['saving']:+.1f}%)" if amnet.get("saving") else ""
    return f"{amnet['mflop']:.3f}{saving}"


def _latency(amnet: Row | None) -> str:
    if not amnet:
        return NOTHING
    mean, *percentiles = (amnet["latency_ms"][key] for key in ("mean", "median", "p90", "p99"))
    return f"{_ms(mean)} ({', '.join(map(_ms, percentiles))})"


def _ms(value: float) -> str:
    """Three significant digits, as the paper prints latencies, but whole milliseconds in full."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def markdown_line(row: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
