"""A table of a paper as text: the printed table with ours in it, and the paper's orderings in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from residualformer.report.format import (
    NOTHING,
    markdown_table,
    show_ends,
    show_millions,
    show_number,
    show_percents,
    show_score,
)
from residualformer.report.paper_table import JudgedClaim, JudgedPair, Measured, PaperTable, SetScores, TableCell
from residualformer.report.reproduce import FAILS, HOLDS, REVERSED, UNDECIDED, UNKNOWN
from residualformer.report.results import Comparison

Lines = Iterator[tuple[str, str]]  # name and value


def render(table: PaperTable, picture: str = "") -> str:
    """Return tables/<table>.md; `picture` is Markdown that shows the picture or says how to draw it."""
    missing = ", ".join(f"`{name}`" for name, ours in table.measured().items() if ours is None)
    parts = [
        "<!-- Written by local/reproduce.sh. Do not edit. -->",
        f"# {table.source}: {table.title}",
        f"Measured on recipe {table.recipe}, {', '.join(table.sets)}, by `{table.command}` at commit {table.commit}.",
        "\n".join(_model_per_line(table) if table.layout == "lines" else _grid(table)),
        _baseline_apart(table),
        picture,
        f"Not measured: {missing}." if missing else "",
        "## The paper's orderings",
        "\n".join(f"- {sentence}" for sentence in [*_findings(table, ours=False), *_closing(table)]),
        "## Against the controls" if any(claim.ours for claim in table.claims) else "",
        "\n".join(f"- {sentence}" for sentence in _findings(table, ours=True)),
        "## How to read this",
        "\n".join(f"- {note}" for note in _notes(table)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def show_picture(table: PaperTable) -> str:
    """Return the Markdown that shows the picture beside the table."""
    return f"![the scores of each row, with intervals]({table.table}.png)"


def findings(table: PaperTable) -> list[str]:
    """Return a sentence or two for each claim of the table, and `_closing`."""
    return [*_findings(table, ours=False), *_closing(table), *_findings(table, ours=True)]


def _findings(table: PaperTable, ours: bool) -> list[str]:
    return [_finding(claim) for claim in table.claims if bool(claim.ours) == ours]


def _grid(table: PaperTable) -> list[str]:
    """Lay the table out as printed, with a block of lines for each row."""
    rows: list[Sequence[str]] = []
    for row in table.rows:
        shown = [dict(_cell_lines(table, cell)) if cell else {} for cell in row.cells]
        rows.append([f"**{row.name}**", *(cell.label if cell else "" for cell in row.cells)])
        for name in dict.fromkeys(name for cell in shown for name in cell):
            values = [cell.get(name, "") for cell in shown]
            if set(values) - {"", NOTHING}:
                rows.append([name, *values])
    return markdown_table(["", *table.columns], rows)


def _model_per_line(table: PaperTable) -> list[str]:
    """Lay the table out with a line for each model and a column for each measure."""
    shown: dict[str, dict[str, str]] = {}
    for row in table.rows:
        shown[row.name] = dict(_cell_lines(table, row.cells[0])) if row.cells[0] else {}
        controls = [cell for cell in row.controls or [] if cell.ours]
        shown |= {f"{row.name}: {cell.label}": dict(_cell_lines(table, cell)) for cell in controls}
    names = list(dict.fromkeys(name for cell in shown.values() for name in cell))
    names = [name for name in names if {cell.get(name, NOTHING) for cell in shown.values()} != {NOTHING}]
    rows = [[model, *(cell.get(name, NOTHING) for name in names)] for model, cell in shown.items()]
    return markdown_table(["", *names], rows)


def _cell_lines(table: PaperTable, cell: TableCell) -> Lines:
    """Iterate over the lines of a cell."""
    paper, ours, metric = cell.paper, cell.ours, table.metric
    names = f" ({' / '.join(table.paper_sets)})" if table.paper_sets else ""
    yield "experiment", f"`{cell.experiment}`"
    yield "parameters M, paper", show_number(paper.parameters, "{:.1f}")
    yield "parameters M", show_millions(ours.parameters if ours else None)
    yield "of them residual M, paper", show_number(paper.residual, "{:.1f}")
    if paper.residual is not None:
        yield "of them residual M", show_millions(ours.residual if ours else None)
    yield f"{metric}, paper{names}", " / ".join(f"{x:.2f}".rstrip("0").rstrip(".") for x in paper.value) or NOTHING
    yield from _each_set(table, ours, f"{metric}{{}} [95%]", lambda scores: show_score(scores.value))
    yield "gap %, paper", " / ".join(f"{x:+.1f}" for x in paper.gap) or NOTHING
    yield from _each_set(table, ours, "gap %{} [95%] (p)", lambda scores: _gap(scores.gap))
    yield from _each_set(table, ours, "nats/token{} [95%]", lambda scores: show_score(scores.loss, 3))
    yield from _each_set(table, ours, "gap in nats/token %{} (p)", lambda scores: _loss_gap(scores.gap))
    if paper.mflop is not None or (ours and any(scores.amnet for scores in ours.sets.values())):
        yield from _amnet_lines(table, cell)
    yield "training", _training(ours)
    if cell.control:
        yield from _control_lines(table, cell.control.experiment, cell.control.ours, cell.control.against or {})


def _control_lines(
    table: PaperTable, experiment: str, ours: Measured | None, against: dict[str, Comparison | None]
) -> Lines:
    yield "its control", f"`{experiment}`"
    yield from _each_set(table, ours, f"control: {table.metric}{{}} [95%]", lambda scores: show_score(scores.value))
    yield from _each_set(table, ours, "control: nats/token{} [95%]", lambda scores: show_score(scores.loss, 3))
    for split in table.sets:
        yield f"against control %{_of_set(table, split)} [95%] (p)", _gap(against.get(split))
    for split in table.sets:
        yield f"against control, nats/token %{_of_set(table, split)} (p)", _loss_gap(against.get(split))
    yield "control: training", _training(ours)


def _amnet_lines(table: PaperTable, cell: TableCell) -> Lines:
    paper, scores = cell.paper, cell.ours.sets.get(table.sets[0]) if cell.ours else None
    amnet = scores.amnet if scores else None
    shares = amnet.shares if amnet and len(amnet.shares) > 1 else []
    yield "compression %, paper", show_percents(paper.compression or [])
    yield "compression %", show_percents(100 * x for x in (amnet.compression if amnet else []))
    yield "slow / fast %, paper", show_percents([] if paper.slow is None else [paper.slow, 100 - paper.slow])
    yield "slow / fast %", show_percents(100 * x for x in shares)
    yield "MFLOP/frame, paper", show_number(paper.mflop, "{:.1f}")
    yield "MFLOP/frame", show_number(amnet.mflop if amnet else None, "{:.3f}")
    yield "FLOPs saved %, paper", show_number(paper.saving, "{:.1f}")
    yield "FLOPs saved %", show_number(amnet.saving if amnet else None, "{:.1f}")
    yield "latency ms, paper", show_number(paper.latency_ms, "{:.4g}")
    yield "latency ms", show_number(amnet.latency_ms.mean if amnet else None, "{:.4g}")


def _each_set(table: PaperTable, ours: Measured | None, name: str, show: Callable[[SetScores], str]) -> Lines:
    """Iterate over the test sets: `name` with the set's name in it, and the scores formatted by `show`."""
    for split in table.sets:
        scores = ours.sets.get(split) if ours else None
        yield name.format(_of_set(table, split)), show(scores) if scores else NOTHING


def _of_set(table: PaperTable, split: str) -> str:
    return f", {split}" if len(table.sets) > 1 else ""


def _finding(claim: JudgedClaim) -> str:
    """Return a claim with its verdict: `**sharing beats ...**: appears in 3 of 4 comparisons. ...`"""
    pairs = [pair for pair in claim.pairs if pair.verdict != UNKNOWN]
    if not pairs:
        return f"**{claim.says}**: not measured."
    missing = len(claim.pairs) - len(pairs)
    head = _appears([pair.verdict for pair in pairs]) + (f" ({missing} not measured)" if missing else "")
    losses = [pair.loss_verdict for pair in pairs if pair.loss_verdict]
    by_loss = f" By the transducer loss it {_appears(losses)}." if losses else ""
    return f"**{claim.says}**: {head}. {'; '.join(_pair(claim, pair) for pair in pairs)}.{by_loss}"


def _appears(verdicts: list[str]) -> str:
    counts = {each: verdicts.count(each) for each in (HOLDS, UNDECIDED, REVERSED, FAILS)}
    if counts[HOLDS] == len(verdicts):
        return "appears"
    parts = [f"{each} in {count}" for each, count in counts.items() if count and each != HOLDS]
    if counts[HOLDS]:
        return f"appears in {counts[HOLDS]} of {len(verdicts)} comparisons, {', '.join(parts)}"
    if counts[UNDECIDED] == len(verdicts):
        return "does not appear, for every difference is within chance"
    return f"does not appear ({', '.join(parts)})"


def _pair(claim: JudgedClaim, pair: JudgedPair) -> str:
    """Return a comparison: "`shared` 10.20 against `shallow6` 12.00 (15.0% better, p 0.001: holds; paper ...)"."""
    form = "{:.2f}" if claim.measure == "value" else "{:.4g}"
    first, second = (f"`{name}` {show_number(x, form)}" for name, x in zip(pair.experiments, pair.ours, strict=True))
    notes = pair.verdict
    if pair.gap and pair.gap.relative is not None:
        better = "worse" if pair.gap.relative > 0 else "better"
        notes = f"{abs(pair.gap.relative):.1f}% {better}, p {pair.gap.p_value:.3f}: {notes}"
    elif claim.at_most is not None:
        notes = f"at most {claim.at_most:.3g} times as much: {notes}"
    if None not in pair.paper:
        notes += "; paper " + " against ".join(f"{x:g}" for x in pair.paper)
    return f"{first} against {second} ({notes})"


def _closing(table: PaperTable) -> list[str]:
    """Return a sentence on the share of the baseline's lead (K = 1) that residual weights make up, if it is known."""
    parts, leader = [], table.baseline
    for cell in table.cells():
        closed = cell.control.closed if cell.control else None
        if closed is None or (closed.ours is None and closed.leader == table.baseline):
            continue
        leader = closed.leader
        paper = f" (paper {closed.paper:.0f}%)" if closed.paper is not None else ""
        control = f", its control {closed.control:.0f}%" if closed.control is not None else ""
        share = "no lead" if closed.ours is None else f"{closed.ours:.0f}%"
        parts.append(f"`{cell.experiment}` {share}{paper}{control}")
    start = "the model that it starts from"
    head = f"Share that each makes up of the lead of `{leader}` over {start}: "
    if leader != table.baseline:
        head = (
            f"Share that each makes up of the lead of `{leader}` over its control, all trained for as long (paper: of "
            f"the lead of `{table.baseline}` over {start}, trained for half as long): "
        )
    return [head + "; ".join(parts) + "."] if parts else []


def _baseline_apart(table: PaperTable) -> str:
    """Describe the baseline, which gaps are relative to, where it is in no cell of the table."""
    if table.baseline_apart is None:
        return ""
    known = [f"{name} {value}" for name, value in _cell_lines(table, table.baseline_apart) if value != NOTHING]
    return f"The baseline, in none of these cells: {'; '.join(known)}."


def _notes(table: PaperTable) -> list[str]:
    notes = [
        "Lines marked paper are the paper's values, on its own data; all others are ours. gap: relative to "
        f"`{table.baseline}` (positive is worse), with its 95% interval and two-sided p from the paired bootstrap over "
        "utterances. They reflect the choice of the test utterances, not that of the seed.",
        "nats/token: transducer loss of the references, all alignments summed.",
        "An ordering holds, or is the other way round, where p is below 0.05; else it is within chance.",
        "training: of this experiment alone, without that of the model that it starts from.",
    ]
    if any(cell.control for cell in table.cells()):
        notes.append("control: the same model without residual weights, trained on for as many updates as with them.")
    if any(row.controls for row in table.rows):
        notes.append(
            "static: one branch that costs what the AmNet's mean frame costs on dev, trained as long. random, oracle: "
            "the AmNet itself, with as many slow frames, drawn by chance or those at which a dense model is least "
            "certain; without the arbitrator's FLOPs (docs/models.md)."
        )
    if len(table.sets) > 1 or table.paper_sets:
        printed = f"; the paper's values beside them are of {table.paper_sets[0]}" if table.paper_sets else ""
        notes.append(f"The orderings are judged on {table.sets[0]}{printed}.")
    measured = [cell.ours for row in table.rows for cell in row.cells if cell and cell.ours]
    values = [scores.value for ours in measured for scores in ours.sets.values()]
    notes += sorted({f"{table.metric}: `{value.signature}`." for value in values if value.signature})
    searches: dict[str, list[str]] = {}
    for split in table.sets:
        for search in sorted({ours.sets[split].search for ours in measured if split in ours.sets}):
            searches.setdefault(search, []).append(split)
    each = ", ".join(f"{search} on {' and '.join(splits)}" for search, splits in searches.items())
    return notes + ([f"Search: {each}."] if each else [])


def _gap(gap: Comparison | None) -> str:
    if gap is None or gap.relative is None:
        return NOTHING
    return f"{gap.relative:+.1f} {show_ends(gap.relative_low, gap.relative_high)} ({gap.p_value:.3f})"


def _loss_gap(gap: Comparison | None) -> str:
    if gap is None or gap.loss_relative is None:
        return NOTHING
    return f"{gap.loss_relative:+.1f} ({gap.loss_p_value:.3f})"


def _training(ours: Measured | None) -> str:
    if ours is None or not ours.steps:
        return NOTHING
    return f"{ours.steps} updates" + (f", {ours.minutes:.1f} min" if ours.minutes is not None else "")
