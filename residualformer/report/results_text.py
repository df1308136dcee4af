"""Results as text: an aligned table for the terminal, and RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from residualformer.metrics.bootstrap import Score
from residualformer.report.amnet import AmnetCost
from residualformer.report.format import (
    NOTHING,
    markdown_table,
    show_ends,
    show_millions,
    show_number,
    show_percents,
    show_score,
)
from residualformer.report.results import Results, Row

COLUMNS: dict[str, Callable[[Row], str]] = {
    "set": lambda row: row.split,
    "experiment": lambda row: row.experiment,
    "search": lambda row: row.search_name,
    "WER % [95%]": lambda row: show_score(row.scores.get("wer")),
    "ins/del/sub": lambda row: _kinds(row.scores.get("wer")),
    "CER % [95%]": lambda row: show_score(row.scores.get("cer")),
    "BLEU [95%]": lambda row: show_score(row.scores.get("bleu")),
    "chrF [95%]": lambda row: show_score(row.scores.get("chrf")),
    "vs baseline": lambda row: _relative(
        row.comparison.relative, row.comparison.relative_low, row.comparison.relative_high
    ),
    "p": lambda row: show_number(row.comparison.p_value, "{:.3f}"),
    "nats/token [95%]": lambda row: show_score(row.scores.get("loss"), 3),
    "nats vs baseline": lambda row: _relative(
        row.comparison.loss_relative, row.comparison.loss_relative_low, row.comparison.loss_relative_high
    ),
    "p (nats)": lambda row: show_number(row.comparison.loss_p_value, "{:.3f}"),
    "Transformer M": lambda row: show_millions(row.parameters.get("transformer")),
    "residual M": lambda row: show_millions(row.parameters.get("residual")),
    "encoder M": lambda row: show_millions(row.parameters.get("encoder")),
    "total M": lambda row: show_millions(row.parameters.get("total")),
    "compression %": lambda row: _shares(row.amnet.compression if row.amnet else [], 1),
    "branches %": lambda row: _shares(row.amnet.shares if row.amnet else [], 2),
    "MFLOP/frame": lambda row: _flops(row.amnet) if row.amnet else show_number(row.mflop, "{:.3f}"),
    "latency ms": lambda row: _latency(row.amnet) if row.amnet else NOTHING,
    "updates": lambda row: show_number(row.training.steps, "{}"),
    "training min": lambda row: show_number(row.training.wall_s, "{:.1f}", 60),
    "RTF": lambda row: show_number(row.decoding.rtf, "{:.3f}"),
    "missing": lambda row: str(row.missing),
}


_TITLES = {  # of pictures
    "wer_vs_params": "word error rates over the parameters of the encoder",
    "bleu_vs_params": "BLEU over the parameters of the encoder",
    "training": "transducer loss of the dev set during the trainings",
    "branches": "what each model with a choice chose during one utterance, and the work that it left undone",
}


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table, without columns that are empty or name the only test set."""
    table = {name: [show(row) for row in results.rows] for name, show in COLUMNS.items()}
    kept = {name: column for name, column in table.items() if not set(column) <= {NOTHING}}
    if set(kept["missing"]) == {"0"}:
        del kept["missing"]
    if len(set(kept["set"])) == 1:
        del kept["set"]
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def aligned(results: Results) -> str:
    """Return the table with padded columns, for a terminal."""
    header, rows = cells(results)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def render_markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """Return RESULTS.md; `pictures` are Markdown that shows pictures or says how to draw them."""
    parts = [
        "<!-- Written by local/score.sh from results.json. Do not edit. -->\n"
        f"# Results: {results.corpus}, {results.split}",
        _scope(results),
        "\n".join(markdown_table(*cells(results))),
        *_notes(results),
        *_controls(results.rows),
        *pictures,
    ]
    for name in results.experiments:
        parts += _experiment(name, [row for row in results.rows if row.experiment == name])
    return "\n\n".join(parts) + "\n"


def _controls(rows: Sequence[Row]) -> list[str]:
    """Return the section that compares controls with what they are controls of; nothing where there are none."""
    beside = [replace(row, comparison=row.beside_it) for row in rows if row.beside_it]
    if not beside:
        return []
    columns: dict[str, Callable[[Row], str]] = {
        "set": lambda row: row.split,
        "control": lambda row: row.name,
        "of": lambda row: row.control_of or NOTHING,
        "beside it": COLUMNS["vs baseline"],
        "p": COLUMNS["p"],
        "nats/token": COLUMNS["nats vs baseline"],
        "p (nats)": COLUMNS["p (nats)"],
    }
    table = markdown_table(list(columns), [[show(row) for show in columns.values()] for row in beside])
    told = (
        "Relative differences to what it is a control of, by the same search, paired. With errors and nats positive is "
        "worse: where the control is not worse, the choice of branches does not earn its keep (docs/models.md)."
    )
    return ["## Controls", "\n".join(table), told]


def show_pictures(pictures: Sequence[Path]) -> list[str]:
    """Return the Markdown that shows `pictures` beside RESULTS.md."""
    return [f"![{_TITLES[path.stem.removesuffix('_dev')]}]({path.name})" for path in pictures]


def _scope(results: Results) -> str:
    first: dict[str, Row] = {}
    for row in results.rows:
        first.setdefault(row.split, row)
    sizes = []
    for split, row in first.items():
        words = f", {row.words} words" if row.words is not None else ""
        mean = f" (mean over {', '.join(row.subsets)})" if row.subsets else ""
        sizes.append((f"{split}{mean}: " if len(first) > 1 else "") + f"{row.utterances} utterances{words}")
    return f"{'; '.join(sizes)}. Scored by `{results.command}` at commit {results.commit}."


def baselines(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the names of baselines, and of several for which rows each is: a kind of encoder, or their experiments."""
    if len(names) == 1:
        return f"`{names[0]}`"
    compared = {name: [row for row in rows if row.baseline == name] for name in names}
    kinds = [{row.of_transformer for row in its} for its in compared.values()]
    if kinds == [{True}, {False}]:
        return f"`{names[0]}` (Transformers) or `{names[1]}` (recurrent encoders)"
    further = [
        f"`{name}` (of {', '.join(dict.fromkeys(row.experiment for row in its))})"
        for name, its in list(compared.items())[1:]
    ]
    return " or ".join([f"`{names[0]}`", *further])


def _notes(results: Results) -> list[str]:
    rows = results.rows
    notes = ["[95%]: bootstrap over utterances. Texts are compared as they are."]
    if any(row.comparison.relative is not None for row in rows):
        of = baselines(rows, results.baseline.split(", "))
        metrics = " or ".join(dict.fromkeys(row.metric for row in rows))
        notes.append(
            f"vs baseline: relative difference to the {metrics} of {of} with the same search (positive is worse), with "
            "its 95% interval; p: two-sided; both from the paired bootstrap. Runs that differ in the settings of the "
            "search, the utterances or the references are not compared."
        )
    if any("loss" in row.scores for row in rows):
        notes.append(
            "nats/token: transducer loss of the references, summed over all alignments, of the utterances that were "
            "decoded; a finer measure than errors."
        )
    if any(row.of_transformer for row in rows):
        notes.append(
            "Transformer: weights, biases and residual weights of the projections in the Transformer layers, shared "
            "ones counted once; total: all that decoding needs."
        )
    notes += _recurrent_notes(rows)
    if any(row.missing for row in rows):
        notes.append("missing: utterances that could not be decoded; each counts as an empty hypothesis.")
    for key in ("bleu", "chrf"):
        notes += sorted({f"{key}: `{row.scores[key].signature}`" for row in rows if key in row.scores})
    return notes


def _recurrent_notes(rows: Sequence[Row]) -> list[str]:
    """Return what the columns of recurrent encoders mean, and those of costs."""
    notes = []
    if any("encoder" in row.parameters for row in rows):
        counts = {row.experiment: row.parameters["pruned"] for row in rows if row.parameters.get("pruned")}
        pruned = ", ".join(f"{name} {show_millions(count)}M" for name, count in counts.items())
        zeros = f", without its pruned weights ({pruned})" if pruned else ""
        notes.append(
            "encoder: the recurrent encoder with its arbitrator and its projection to the joint network, factors that "
            f"branches share counted once{zeros}; total: all that decoding needs."
        )
    if names := sorted({row.control for row in rows if row.control}):
        notes.append(
            f"search {', '.join(f'..._{name}' for name in names)}: the branches were not the arbitrator's, see "
            "docs/models.md; the arbitrator is not within the FLOPs."
        )
    if chosen := [row for row in rows if row.amnet]:
        return notes + _cost_notes(chosen)
    if any(row.mflop for row in rows):
        notes.append("MFLOP/frame: multiply-accumulates of the encoder per encoder frame, projection included.")
    return notes


def _cost_notes(rows: Sequence[Row]) -> list[str]:
    """Return what the columns of costs mean, of rows with branches or depths."""
    costs = [row.amnet for row in rows if row.amnet]
    depths = any(row.of_transformer for row in rows)
    recurrent = not all(row.of_transformer for row in rows)
    devices = sorted({(cost.mu / 1e6, cost.mu / cost.rho / 1e6) for cost in costs})
    device = " or ".join(f"{mu:g} MFLOP/s, of which {free:.4g} MFLOP are free per frame" for mu, free in devices)
    compression = "compression: share of the weights of each branch that are removed, slow / fast; "
    saving = ", and the difference to `rnnt`"
    frames = "frames that took each" + (", of a Transformer of the chunks, from the full depth down" if depths else "")
    return [
        f"{compression if recurrent else ''}branches: share of the test {frames}; "
        "MFLOP/frame: multiply-accumulates of the encoder per encoder frame, arbitrator and projection included, "
        f"averaged over these frames{saving if recurrent else ''}.",
        "latency: mean (median, 90th and 99th percentile over the utterances) of the time for the work left "
        f"one frame{' or chunk' if depths else ''} after the last {'one' if depths else 'frame'} arrived, simulated "
        f"from the decisions taken, on a device of {device}.",
    ]


def _experiment(name: str, rows: Sequence[Row]) -> list[str]:
    """Return how one experiment was trained and decoded."""
    first, training = rows[0], rows[0].training
    lines = [f"- trained by `{training.command}`"] if training.command else []
    others = asdict(replace(training, command=None, wall_s=None, cpu_s=None))
    lines += [f"- {key}: {value}" for key, value in others.items() if value is not None]
    if training.wall_s is not None:
        cpu = f", {training.cpu_s / 60:.1f} min of CPU" if training.cpu_s is not None else ""
        lines.append(f"- time: {training.wall_s / 60:.1f} min{cpu}")
    for row in rows:
        if (decoding := row.decoding).settings is not None:
            settings = ", ".join(f"{key} {value}" for key, value in decoding.settings.items())
            settings += "".join(f", with {kind}" for kind in decoding.context or {})
            where = f"{decoding.wall_s} s for {decoding.audio_s} s of audio on {decoding.hardware}"
            where += f", {decoding.jobs} processes" if (decoding.jobs or 1) > 1 else ""
            lines.append(f"- {row.run}: {settings}; {where}; commit {decoding.commit}")
    lines += [f"- scored by {scored}" for scored in dict.fromkeys(row.scored for row in rows) if scored]
    return list(filter(None, [f"## {name}", first.description.strip(), "\n".join(lines)]))


def _relative(relative: float | None, low: float | None, high: float | None) -> str:
    """Format a gap with its interval, where that is known."""
    interval = "" if low is None and high is None else " " + show_ends(low, high)
    return NOTHING if relative is None else f"{relative:+.1f}%{interval}"


def _kinds(score: Score | None) -> str:
    if score is None or score.insertions is None:
        return NOTHING
    return f"{score.insertions}/{score.deletions}/{score.substitutions}"


def _shares(shares: Sequence[float], fewest: int) -> str:
    """Format shares as percentages, slow branch first; nothing where there are fewer than `fewest`."""
    return show_percents(100 * share for share in shares) if len(shares) >= fewest else NOTHING


def _flops(amnet: AmnetCost) -> str:
    return f"{amnet.mflop:.3f}" + (f" ({-amnet.saving:+.1f}%)" if amnet.saving else "")


def _latency(amnet: AmnetCost) -> str:
    latency = amnet.latency_ms
    return f"{_ms(latency.mean)} ({_ms(latency.median)}, {_ms(latency.p90)}, {_ms(latency.p99)})"


def _ms(value: float) -> str:
    """Format milliseconds to three significant digits, as the paper prints them, but no fewer than to whole ones."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
