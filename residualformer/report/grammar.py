"""What a grammar does to test sets: sentences and slots that are right, what is refused and what is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from residualformer.context.grammar.network import Network
from residualformer.errors import UserError
from residualformer.files import read_json, read_json_lines
from residualformer.metrics.bootstrap import Score, rate
from residualformer.metrics.poisson import poisson_interval
from residualformer.records import read_dataclass
from residualformer.report.format import markdown_table, show_score

Share = Score  # in percent of the utterances
_AGAIN = "run stage 7 again, with --overwrite"


@dataclass(frozen=True)
class Judged:
    """The keys of a line of hyp.jsonl that count, of an utterance that was decoded with a grammar."""

    id: str
    ref: str
    hyp: str  # empty where there is no match
    match: bool
    slots: dict[str, Any]
    nearest: str = ""  # what was refused
    duration: Annotated[float, Interval(ge=0)] = 0.0


@dataclass(frozen=True)
class GrammarRow:
    """An experiment on a test set; shares in percent.

    Attributes:
        inside: utterances that the grammar has. Of them:
        right: the sentence is accepted as it was said.
        slots_right: accepted, with all slots as they were said.
        refused: taken for no match.
        nearest_right: the sentence is right, or would be if nothing were refused.
        free_right, free_slots_right: without the grammar the text is as it was said, or fills the slots so.
        outside: utterances that the grammar does not have.
        hours: of them.
        accepted: of them, taken for a sentence of the grammar; also in an hour, with the exact interval of a count.
        slots: of each slot, how often it was said, and how often it was filled so.
    """

    experiment: str
    split: str
    reject: float
    inside: int
    right: Share | None
    slots_right: Share | None
    refused: Share | None
    nearest_right: Share | None
    free_right: Share | None
    free_slots_right: Share | None
    outside: int
    hours: float
    accepted: Share | None
    accepted_per_hour: Score | None
    slots: dict[str, tuple[int, int]]


def read_judged(records: Iterable[Any], path: str) -> list[Judged]:
    """Return the lines of a hyp.jsonl; UserError for one that no grammar judged."""
    found = []
    for number, record in enumerate(records, start=1):
        try:
            found.append(read_dataclass(Judged, record))
        except ValueError as error:
            raise UserError(f"{path}, line {number} was not decoded with a grammar ({error}): {_AGAIN}.") from error
    return found


def score_decoded(folder: Path, network: Network) -> GrammarRow:
    """Return the row of a folder that stage 7 wrote, RUN/grammar/SPLIT."""
    context = read_json(folder / "decode.json", _AGAIN).get("context") or {}
    judged = read_judged(read_json_lines(folder / "hyp.jsonl", _AGAIN), str(folder / "hyp.jsonl"))
    names = folder.parents[1].name, folder.name
    return score_grammar(*names, context["grammar"]["reject"], network, judged, read_free(folder))


def read_free(folder: Path) -> dict[str, str]:
    """Return the texts that stage 7 found without the grammar by the same search as in `folder`, RUN/grammar/SPLIT."""
    wanted = read_json(folder / "decode.json", _AGAIN).get("search")
    for other in sorted(folder.parents[1].glob(f"decode_{folder.name}_*")):
        told = read_json(other / "decode.json", _AGAIN) if (other / "hyp.jsonl").is_file() else {}
        if told and told.get("search") == wanted and not told.get("context"):
            return {each["id"]: each["hyp"] for each in read_json_lines(other / "hyp.jsonl", _AGAIN)}
    return {}


def score_grammar(
    experiment: str,
    split: str,
    reject: float,
    network: Network,
    judged: Sequence[Judged],
    free: Mapping[str, str],
) -> GrammarRow:
    """Return the row of a decoded test set; what was said in each utterance is read by the same grammar.

    Args:
        free: texts of utterances without the grammar, by id.
    """
    read = [(each, network.slots_of(each.ref)) for each in judged]
    inside = [(each, said) for each, said in read if said is not None]
    outside = [each for each, said in read if said is None]
    filled: dict[str, tuple[int, int]] = {}
    for each, said in inside:
        for name, value in said.items():
            count, right = filled.get(name, (0, 0))
            filled[name] = count + 1, right + int(each.match and each.slots.get(name) == value)
    heard = [(free[each.id], each.ref, said) for each, said in inside if each.id in free]
    hours = sum(each.duration for each in outside) / 3600
    return GrammarRow(
        experiment=experiment,
        split=split,
        reject=reject,
        inside=len(inside),
        right=_share(each.match and each.hyp == each.ref for each, _ in inside),
        slots_right=_share(each.match and each.slots == said for each, said in inside),
        refused=_share(not each.match for each, _ in inside),
        nearest_right=_share((each.hyp or each.nearest) == each.ref for each, _ in inside),
        free_right=_share(text == ref for text, ref, _ in heard),
        free_slots_right=_share(network.slots_of(text) == said for text, _, said in heard),
        outside=len(outside),
        hours=round(hours, 3),
        accepted=_share(each.match for each in outside),
        accepted_per_hour=_per_hour(sum(each.match for each in outside), hours),
        slots=filled,
    )


def _share(hits: Iterable[bool]) -> Share | None:
    """Return the share of hits with its interval, None of none."""
    found = np.array(list(hits), float)
    return rate(found, np.ones_like(found)).rounded() if len(found) else None


def _per_hour(count: int, hours: float) -> Score | None:
    if not hours:
        return None
    value, low, high = (round(each / hours, 2) for each in (count, *poisson_interval(count)))
    return Score(value=value, low=low, high=high)


def render_grammar(name: str, command: str, rows: Sequence[GrammarRow]) -> list[str]:
    """Return the lines of a document on the rows of a recipe."""
    inside, outside = [each for each in rows if each.inside], [each for each in rows if each.outside]
    header = [
        "experiment",
        "set",
        "sentences",
        "right %",
        "all slots right %",
        "refused %",
        "right, were none refused %",
        "right without the grammar %",
        "slots so %",
    ]
    table = [
        [each.experiment, each.split, str(each.inside)]
        + [show_score(score, 1) for score in (each.right, each.slots_right, each.refused, each.nearest_right)]
        + [show_score(score, 1) for score in (each.free_right, each.free_slots_right)]
        for each in inside
    ]
    others = [
        [each.experiment, each.split, str(each.outside), f"{each.hours:.2f}"]
        + [show_score(each.accepted, 1), show_score(each.accepted_per_hour, 1)]
        for each in outside
    ]
    slots = [
        [each.experiment, each.split, slot, str(count), f"{100 * right / count:.1f}"]
        for each in inside
        for slot, (count, right) in each.slots.items()
    ]
    lines = [
        f"# {name}: with the grammar",
        "",
        f"`{command}`. In brackets 95% intervals: bootstrap over utterances, and exact ones of counts in an hour.",
        "",
    ]
    lines += ["## Sentences of the grammar", "", *markdown_table(header, table), ""]
    if others:
        header = ["experiment", "set", "utterances", "hours", "accepted %", "accepted in an hour of it"]
        lines += ["## Other speech", "", *markdown_table(header, others), ""]
    if slots:
        lines += ["## Slots", "", *markdown_table(["experiment", "set", "slot", "said", "right %"], slots), ""]
    limits = {each.experiment: each.reject for each in rows}
    told = ", ".join(f"{experiment} {reject:.3f}" for experiment, reject in limits.items())
    return [*lines, f"Largest distances that are accepted, chosen on dev, in nats per second: {told}."]
