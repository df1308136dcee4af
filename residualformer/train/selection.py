"""Decisions by the dev set: when a training ends early, and which of its weights become the model.

Candidates are compared by two measures: the score of greedy search (WER, or BLEU of translations) and the transducer
loss per token. WER on a few minutes of speech is noisy, and the loss of an overconfident model rises while its WER
still falls. So a candidate replaces the average of the last checkpoints only if it is better by both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from residualformer.config.schema import Config
from residualformer.train.state import CheckpointFolder, Validation, step_of

log = logging.getLogger("residualformer")

Values = dict[str, float]


def error(values: Values) -> float:
    """Return the score of greedy search as an error, the lower the better: WER, or the negative of BLEU."""
    return values["greedy_wer"] if "greedy_wer" in values else -values["greedy_bleu"]


def loss(values: Values) -> float:
    """Return the transducer loss per token, in nats."""
    return values["transducer_per_token"]


class Validations:
    """The validations of a training so far, in their order."""

    def __init__(self, measured: Iterable[Validation] = ()) -> None:
        self.measured = list(measured)

    def add(self, step: int, values: Values) -> None:
        """Add the measurements after update `step`."""
        self.measured.append({"step": step, "values": values})

    def best(self, count: int) -> list[int]:
        """Return the steps of the best `count` validations, best first: by the error, and by the loss where equal."""
        ranked = sorted(self.measured, key=lambda each: (error(each["values"]), loss(each["values"]), -each["step"]))
        return [each["step"] for each in ranked[:count]]

    def without_improvement(self) -> int:
        """Return the number of validations since the last one that had a lower error or loss than all before it."""
        lowest_error = lowest_loss = float("inf")
        count = 0
        for each in self.measured:
            found_error, found_loss = error(each["values"]), loss(each["values"])
            improved = found_error < lowest_error or found_loss < lowest_loss
            count = 0 if improved else count + 1
            lowest_error, lowest_loss = min(lowest_error, found_error), min(lowest_loss, found_loss)
        return count

    def are_enough(self, patience: int) -> bool:
        """Return whether the training should end: the last `patience` validations brought no improvement; 0: never."""
        return 0 < patience <= self.without_improvement()


@dataclass(frozen=True)
class Candidate:
    """Weights that may become the model: the average of some checkpoints."""

    name: str
    files: list[Path]


@dataclass(frozen=True)
class Measured:
    """A candidate's weights, adjusted to the dev set if the training has such a phase, and their measurements."""

    candidate: Candidate
    weights: dict[str, Tensor]
    valid: Values

    def record(self) -> dict[str, Any]:
        """Return the entry of a candidate in the record of a training."""
        files = [path.name for path in self.candidate.files]
        return {"name": self.candidate.name, "files": files, "valid": self.valid}


def candidates(folder: CheckpointFolder, validations: Validations, config: Config, step: int) -> list[Candidate]:
    """Return the candidates of a training that ends after update `step`; the first one is preferred.

    The average of the last checkpoints leaves out those before the last `average_share` of the updates: where
    checkpoints are far apart, they differ too much to be averaged. For models with an arbitrator it is the only
    candidate, because their checkpoints also differ in cost, which errors do not measure.
    """
    train = config.train
    newest = folder.newest_weights()
    expected = min(train.average_last, math.ceil(step / train.save_every_steps))
    if len(newest) < expected:
        log.warning("only %d of the last %d checkpoints exist to be averaged", len(newest), expected)
    last = [path for path in newest if step - step_of(path) <= train.average_share * step]
    best = folder.best_weights(validations.best(train.average_best))
    found = [Candidate(f"average of the last {len(last)} checkpoints", last)]
    if config.has_arbitrator:
        return found
    found.append(Candidate("last checkpoint", last[-1:]))
    if best:
        found += [
            Candidate(f"average of the best {len(best)} checkpoints", sorted(best, key=step_of)),
            Candidate("best checkpoint", best[:1]),
        ]
    of_steps: dict[tuple[int, ...], Candidate] = {}
    for each in found:
        of_steps.setdefault(tuple(map(step_of, each.files)), each)
    return list(of_steps.values())


def choose(
    offered: Sequence[Candidate], measure: Callable[[Candidate], Measured]
) -> tuple[Measured, list[dict[str, Any]]]:
    """Measure all candidates; return the one that becomes the model, and the record's entry of each."""
    preferred = chosen = measure(offered[0])
    records = [preferred.record()]
    for candidate in offered[1:]:
        measured = measure(candidate)
        records.append(measured.record())
        if takes_over(measured.valid, preferred.valid, chosen.valid):
            chosen = measured
    if chosen is not preferred:
        names = chosen.candidate.name, _score(chosen.valid), preferred.candidate.name, _score(preferred.valid)
        log.warning("the %s is kept, which is better on dev (%s) than the %s (%s)", *names)
    return chosen, records


def takes_over(new: Values, preferred: Values, chosen: Values) -> bool:
    """Return whether a candidate with the measurements `new` replaces the `chosen` one.

    It must be better than the `preferred` one by error and by loss; of several such the lowest error decides.
    """
    better = error(new) < error(preferred) and loss(new) < loss(preferred)
    return better and (chosen is preferred or error(new) < error(chosen))


def _score(values: Values) -> str:
    name = "WER" if "greedy_wer" in values else "BLEU"
    return f"{name} {abs(error(values)):.2f}%, {loss(values):.3f} nats/token"
