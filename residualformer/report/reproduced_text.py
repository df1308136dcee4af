"""A reproduced table as text: the printed table with ours in it, and in words which of the paper's orderings appear.

Pure functions of what `reproduced.py` gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from residualformer.report.reproduced import FAILS, HOLDS, REVERSED, UNDECIDED, UNKNOWN
from residualformer.report.table import NOTHING, markdown_line, show_ends, show_interval, show_number

Values = dict[str, Any]


def render(result: Values, picture: bool = False) -> str:
    """table<N>.md; with `picture` it shows the one beside it."""
    body = _lines_layout(result) if result["layout"] == "lines" else _grid(result)
    parts = [
        "<!-- Written by local/reproduce.sh. Do not edit. -->",
        f"# {result['source']}: {result['title']}",
        f"Measured on recipe {result['recipe']}, {', '.join(result['sets'])}, by `{result['command']}` at commit "
        f"{result['commit']}.",
        "\n".join(body),
        *_apart(result),
        *([f"![the scores of each row, with intervals]({result['table']}.png)"] if picture else []),
        *_empty(result),
        "## The paper's orderings",
        "\n".join(f"- {sentence}" for sentence in findings(result)),
        "## How to read this",
        "\n".join(f"- {note}" for note in _notes(result)),
    ]
    return "\n\n".join(parts) + "\n"


def findings(result: Values) -> list[str]:
    """A sentence or two for each claim of the table, and one on the gap that residual weights close."""
    return [_finding(claim) for claim in result["claims"]] + _closing(result)


def _grid(result: Values) -> list[str]:
    """As printed: a block of lines for each row, a column for each column."""
    lines = [markdown_line(["", *result["columns"]]), markdown_line(["---"] * (len(result["columns"]) + 1))]
    for row in result["rows"]:
        shown = [dict(_cell_lines(result, cell)) if cell else {} for cell in row["cells"]]
        labels = [cell["label"] if cell else "" for cell in row["cells"]]
        lines.append(markdown_line([f"**{row['name']}**", *labels]))
        for name in dict.fromkeys(name for cell in shown for name in cell):
            values = [cell.get(name, "") for cell in shown]
            if set(values) - {"", NOTHING}:
                lines.append(markdown_line([name, *values]))
    return lines


def _lines_layout(result: Values) -> list[str]:
    """A line for each model, a column for each measure."""
    shown = {row["name"]: dict(_cell_lines(result, row["cells"][0])) for row in result["rows"]}
    names = list(dict.fromkeys(name for cell in shown.values() for name in cell))
    names = [name for name in names if {cell.get(name, NOTHING) for cell in shown.values()} != {NOTHING}]
    rows = [[model, *(cell.get(name, NOTHING) for name in names)] for model, cell in shown.items()]
    return [markdown_line(["", *names]), markdown_line(["---"] * (len(names) + 1)), *map(markdown_line, rows)]


def _cell_lines(result: Values, cell: Values) -> Iterable[tuple[str, str]]:
    """(what, value) of a cell, in the order in which they are shown."""
    paper, ours, metric = cell["paper"], cell["ours"] or {}, result["metric"]
    sets = result["sets"]

    def each(text: str, key: str, show: Any, of: Values) -> Iterable[tuple[str, str]]:
        for split in sets:
            where = f", {split}" if len(sets) > 1 else ""
            scores = of.get("sets", {}).get(split, {})
            yield text.format(where), show(scores[key]) if scores.get(key) else NOTHING

    yield "experiment", f"`{cell['experiment']}`"
    yield "parameters M, paper", show_number(paper["parameters"], "{:.1f}")
    yield "parameters M", show_number(ours.get("parameters"), "{:.3f}", 1e6)
    yield "of them residual M, paper", show_number(paper["residual"], "{:.1f}")
    if paper["residual"] is not None:
        yield "of them residual M", show_number(ours.get("residual"), "{:.3f}", 1e6)
    names = f" ({' / '.join(result['paper_sets'])})" if result["paper_sets"] else ""
    yield f"{metric}, paper{names}", " / ".join(f"{x:.2f}".rstrip("0").rstrip(".") for x in paper["value"]) or NOTHING
    yield from each(f"{metric}{{}} [95%]", "value", show_interval, ours)
    yield "gap %, paper", " / ".join(f"{x:+.1f}" for x in paper["gap"]) or NOTHING
    yield from each("gap %{} [95%] (p)", "gap", _gap, ours)
    yield from each("nats/token{} [95%]", "loss", _interval3, ours)
    yield from each("gap in nats/token %{} (p)", "gap", _loss_gap, ours)
    yield from _amnet_lines(paper, ours.get("sets", {}).get(sets[0], {}).get("amnet") or {})
    yield "training", _training(ours)
    if control := cell.get("control"):
        yield "its control", f"`{control['experiment']}`"
        yield from each(f"control: {metric}{{}} [95%]", "value", show_interval, control["ours"] or {})
        yield from each("control: nats/token{} [95%]", "loss", _interval3, control["ours"] or {})
        against = {"sets": {split: {"gap": found} for split, found in control.get("against", {}).items()}}
        yield from each("against control %{} [95%] (p)", "gap", _gap, against)
        yield from each("against control, nats/token %{} (p)", "gap", _loss_gap, against)
        yield "control: training", _training(control["ours"] or {})


def _amnet_lines(paper: Values, ours: Values) -> Iterable[tuple[str, str]]:
    """Only of tables with AmNets."""
    if paper["mflop"] is None:
        return
    ratio = [100 * share for share in ours.get("compression", [])]
    shares = [100 * share for share in ours.get("shares", [])]
    printed = [] if paper["slow"] is None else [paper["slow"], 100 - paper["slow"]]
    yield "compression %, paper", _percents(paper["compression"] or [])
    yield "compression %", _percents(ratio)
    yield "slow / fast %, paper", _percents(printed)
    yield "slow / fast %", _percents(shares if len(shares) > 1 else [])
    yield "MFLOP/frame, paper", show_number(paper["mflop"], "{:.1f}")
    yield "MFLOP/frame", show_number(ours.get("mflop"), "{:.3f}")
    yield "FLOPs saved %, paper", show_number(paper["saving"], "{:.1f}")
    yield "FLOPs saved %", show_number(ours.get("saving"), "{:.1f}")
    yield "latency ms, paper", show_number(paper["latency_ms"], "{:.4g}")
    yield "latency ms", show_number(ours.get("latency_ms", {}).get("mean"), "{:.4g}")


def _finding(claim: Values) -> str:
    """Such as: **sharing beats ...**: appears in 3 of 4 comparisons. `shared` 10.20 against ...; ... By the loss ..."""
    pairs = [pair for pair in claim["pairs"] if pair["verdict"] != UNKNOWN]
    if not pairs:
        return f"**{claim['says']}**: not measured."
    missing = len(claim["pairs"]) - len(pairs)
    head = _head([pair["verdict"] for pair in pairs]) + (f" ({missing} not measured)" if missing else "")
    losses = [pair["loss_verdict"] for pair in pairs if "loss_verdict" in pair]
    by_loss = f" By the transducer loss it {_head(losses)}." if losses else ""
    return f"**{claim['says']}**: {head}. {'; '.join(_pair(claim, pair) for pair in pairs)}.{by_loss}"


def _head(verdicts: list[str]) -> str:
    counts = {each: verdicts.count(each) for each in (HOLDS, UNDECIDED, REVERSED, FAILS)}
    if counts[HOLDS] == len(verdicts):
        return "appears"
    parts = [f"{each} in {count}" for each, count in counts.items() if count and each != HOLDS]
    if counts[HOLDS]:
        return f"appears in {counts[HOLDS]} of {len(verdicts)} comparisons, {', '.join(parts)}"
    if counts[UNDECIDED] == len(verdicts):
        return "does not appear, for every difference is within chance"
    return f"does not appear ({', '.join(parts)})"


def _pair(claim: Values, pair: Values) -> str:
    """Such as: `shared` 10.20 against `shallow6` 12.00 (15.0% better, p 0.001: holds; paper 13.81 against 16.25)."""
    form = "{:.2f}" if claim["measure"] == "value" else "{:.4g}"
    (first, second), (a, b) = pair["experiments"], (form.format(x) for x in pair["ours"])
    notes = pair["verdict"]
    if "gap" in pair:
        relative, p_value = pair["gap"]["relative"], pair["gap"]["p_value"]
        notes = f"{abs(relative):.1f}% {'worse' if relative > 0 else 'better'}, p {p_value:.3f}: {notes}"
    elif claim["at_most"] is not None:
        notes = f"at most {claim['at_most']:.3g} times as much: {notes}"
    if None not in pair["paper"]:
        notes += "; paper " + " against ".join(f"{x:g}" for x in pair["paper"])
    return f"`{first}` {a} against `{second}` {b} ({notes})"


def _closing(result: Values) -> list[str]:
    """How much of the lead of K = 1 residual weights make up: paper, ours, and the control without residual."""
    parts, leader = [], result["baseline"]
    for row in result["rows"]:
        for cell in filter(None, row["cells"]):
            closed = (cell.get("control") or {}).get("closed")
            if not closed or (closed["ours"] is None and closed["leader"] == result["baseline"]):
                continue
            leader = closed["leader"]
            paper = f" (paper {closed['paper']:.0f}%)" if closed["paper"] is not None else ""
            control = f", its control {closed['control']:.0f}%" if closed["control"] is not None else ""
            share = "there is none" if closed["ours"] is None else f"{closed['ours']:.0f}%"
            parts.append(f"`{cell['experiment']}` {share}{paper}{control}")
    over = "the model that it starts from"
    head = f"Of the lead of `{leader}` over {over}, makes up: "
    if leader != result["baseline"]:
        head = (
            f"Of the lead of `{leader}` over its control, all trained for as long, makes up (paper: of the lead of "
            f"`{result['baseline']}` over {over}, trained for half as long): "
        )
    return [head + "; ".join(parts) + "."] if parts else []


def _apart(result: Values) -> list[str]:
    """The baseline, where it stands in no cell: without it nobody could tell what the gaps are relative to."""
    if (cell := result["baseline_apart"]) is None:
        return []
    known = [f"{what} {value}" for what, value in _cell_lines(result, cell) if value != NOTHING]
    return [f"The baseline, in none of these cells: {'; '.join(known)}."]


def _empty(result: Values) -> list[str]:
    cells = [cell for row in result["rows"] for cell in row["cells"] if cell]
    cells += [result["baseline_apart"]] if result["baseline_apart"] else []
    missing = [cell["experiment"] for cell in cells if cell["ours"] is None]
    missing += [cell["control"]["experiment"] for cell in cells if cell.get("control") and not cell["control"]["ours"]]
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(missing))
    return [f"Not measured: {names}."] if names else []


def _notes(result: Values) -> list[str]:
    worse = "positive is worse"
    notes = [
        f"Lines that say paper are the paper's, on its own data; all others are ours. gap: relative to "
        f"`{result['baseline']}` ({worse}), with its 95% interval and two-sided p from the paired bootstrap over "
        "utterances. They tell the chance in the test set, not that of another seed.",
        "nats/token: transducer loss of the references, all alignments summed.",
        "An ordering holds, or is the other way round, with p below 0.05; within chance lies what has a larger p.",
        "training: of this experiment alone; what it starts from was trained before.",
    ]
    if any(cell and cell.get("control") for row in result["rows"] for cell in row["cells"]):
        notes.append("control: the same model without residual weights, trained on for as many updates as with them.")
    if len(result["sets"]) > 1 or result["paper_sets"]:
        printed = f"; the paper's values beside them are of {result['paper_sets'][0]}" if result["paper_sets"] else ""
        notes.append(f"The orderings are judged on {result['sets'][0]}{printed}.")
    measured = [cell["ours"] for row in result["rows"] for cell in row["cells"] if cell and cell["ours"]]
    values = [scores["value"] for ours in measured for scores in ours["sets"].values()]
    notes += sorted({f"{result['metric']}: `{value['signature']}`." for value in values if "signature" in value})
    searches: dict[str, list[str]] = {}
    for name in result["sets"]:
        for search in sorted({ours["sets"][name]["search"] for ours in measured if name in ours["sets"]}):
            searches.setdefault(search, []).append(name)
    each = ", ".join(f"{search} on {' and '.join(names)}" for search, names in searches.items())
    return notes + ([f"Search: {each}."] if each else [])


def _interval3(value: Values) -> str:
    return show_interval(value, 3)


def _gap(gap: Values) -> str:
    relative, low, high = (gap[key] for key in ("relative", "relative_low", "relative_high"))
    return f"{relative:+.1f} {show_ends(low, high)} ({gap['p_value']:.3f})"


def _loss_gap(gap: Values) -> str:
    if gap.get("loss_relative") is None:
        return NOTHING
    return f"{gap['loss_relative']:+.1f} ({gap['loss_p_value']:.3f})"


def _training(ours: Values) -> str:
    if not ours.get("steps"):
        return NOTHING
    return f"{ours['steps']} updates" + (f", {ours['minutes']:.1f} min" if ours.get("minutes") is not None else "")


def _percents(values: list[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values) or NOTHING
