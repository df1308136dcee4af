"""The distance that a grammar accepts, chosen on a set that was decoded with it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from residualformer.context.grammar.compiled import Grammar
from residualformer.errors import UserError
from residualformer.files import read_json, read_json_lines

FALSE_REJECTS = 0.02
_ADVICE = "decode a dev set with this grammar (steps/decode.py RUN --cuts CUTS --grammar FILE) and give its hyp.jsonl"


class Tuning(NamedTuple):
    """A largest distance to accept, in nats per second, and what it does to the set that it was chosen on."""

    reject: float
    sentences: int  # utterances whose reference the grammar has
    refused: int  # of them
    others: int  # utterances whose reference it does not have
    accepted: int  # of them


def tune(grammar: Grammar, path: Path, false_rejects: float | None = None) -> Tuning:
    """Choose the largest distance to accept.

    A sentence of the grammar that was not recognized at all has no distance: it is refused, and no share counts it.

    Args:
        path: the `hyp.jsonl` of a set that was decoded with this grammar, whatever it accepted then.
        false_rejects: the share of the grammar's sentences that may be refused. None: FALSE_REJECTS, but where the
            set has utterances that the grammar does not have, `balance` weighs one against the other.

    Raises:
        UserError: the file is missing or wrong or of another grammar, or has no sentence of the grammar.
    """
    context = read_json(path.with_name("decode.json"), _ADVICE).get("context")
    known = context.get("grammar") if isinstance(context, dict) else None
    if not isinstance(known, dict) or known.get("check") != grammar.check_sum:
        raise UserError(f"{path} was not decoded with this grammar and a model of these tokens: {_ADVICE}.")
    records = [_read(record, f"{path}, line {n}") for n, record in enumerate(read_json_lines(path, _ADVICE), start=1)]
    inside = sorted(distance for text, distance in records if grammar.network.accepts(text))
    outside = [distance for text, distance in records if not grammar.network.accepts(text)]
    if not inside:
        raise UserError(f"{path}: the grammar has none of the {len(outside)} references: {_ADVICE}.")
    recognized = [distance for distance in inside if distance < math.inf]
    if not recognized:
        reject = 0.0
    elif outside and false_rejects is None:
        reject = balance(recognized, outside)
    else:
        reject = choose(recognized, FALSE_REJECTS if false_rejects is None else false_rejects)
    refused = sum(distance > reject for distance in inside)
    return Tuning(reject, len(inside), refused, len(outside), sum(distance <= reject for distance in outside))


def choose(distances: Sequence[float], false_rejects: float) -> float:
    """Return the smallest of the ascending `distances`, but 0 at least, that at most a share of them exceeds."""
    return max(0.0, distances[len(distances) - 1 - math.floor(false_rejects * len(distances))])


def balance(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return the distance, 0 or more, at which the shares of `inside` refused and `outside` accepted sum to least."""
    inside, outside = sorted(inside), sorted(outside)

    def mistakes(reject: float) -> int:
        """Return that sum, but for a factor and a constant, as a whole number: equal sums are equal."""
        return bisect_right(outside, reject) * len(inside) - bisect_right(inside, reject) * len(outside)

    return min([0.0, *(each for each in inside if each > 0)], key=mistakes)


def _read(record: Any, place: str) -> tuple[str, float]:
    """Return reference and distance of a line; the distance is infinite where nothing was recognized."""
    text, distance = (record.get("ref"), record.get("distance", "")) if isinstance(record, dict) else (None, "")
    if not isinstance(text, str) or not (distance is None or isinstance(distance, float | int)):
        raise UserError(f"{place} is no record with ref and distance: {_ADVICE}.")
    return text, math.inf if distance is None else float(distance)
