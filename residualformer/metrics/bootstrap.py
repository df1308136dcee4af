"""Confidence of a score: resample the utterances of the test set with replacement.

Sources: Bisani & Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation"; Koehn
(2004), "Statistical significance tests for machine translation evaluation". Utterances are drawn independently; where a
few speakers hold the test set, the true uncertainty is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
Number = TypeVar("Number", float, np.ndarray)


def resampled_sums(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Column sums (R, C) of `counts` (U, C) over R samples of U utterances, drawn with replacement."""
    return np.stack([times @ counts for times in _draws(len(counts), resamples, seed)])


@lru_cache(maxsize=4)
def _draws(utterances: int, resamples: int, seed: int) -> np.ndarray:
    """How often each utterance is in each sample, (R, U): kept, as drawing takes longer than all that is made of it."""
    generator, chances = np.random.default_rng(seed), np.full(utterances, 1 / utterances)
    return np.stack([generator.multinomial(utterances, chances).astype(np.int32) for _ in range(resamples)])


@dataclass(frozen=True)
class Measure:
    """A score of a test set that follows from sums over its utterances: an error rate, BLEU, nats per token.

    Attributes:
        parts: for each subset of the test set, counts (U, C) of its U utterances; the score is the mean of theirs.
        score: scores (R,) from sums of counts (R, C).
        higher_is_better: as of BLEU; not of an error rate.
        details: what is told beside the value, such as sacrebleu's signature.
    """

    parts: Sequence[np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def value(self) -> float:
        return float(np.mean([self.score(counts.sum(0, keepdims=True))[0] for counts in self.parts]))

    @cached_property
    def samples(self) -> np.ndarray:
        """Scores (R,) of resampled test sets; two measures of the same utterances see the same samples."""
        scores = [self.score(resampled_sums(counts, seed=SEED + i)) for i, counts in enumerate(self.parts)]
        return np.mean(scores, axis=0)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The central `level` interval of the score, by the percentile method."""
        return _central(self.samples, level)

    def row(self, digits: int = 2) -> dict[str, Any]:
        """Value, low and high end of the interval, None where there is no number, and the details."""
        values = zip(("value", "low", "high"), (self.value, *self.interval()), strict=True)
        return {name: round(x, digits) if np.isfinite(x) else None for name, x in values} | self.details

    def gap(self, baseline: Measure) -> dict[str, float | None]:
        """`relative`: how much worse than `baseline`, in percent of it; `p_value`: see `paired_p_value`.

        `relative_low`, `relative_high`: its 95% interval, from samples of the same utterances for both; None for an
        end that is infinite, as that of a baseline without errors in many samples. All are None when the baseline's
        score is no number above 0.
        """
        names = ("relative", "relative_low", "relative_high")
        if not (np.isfinite(self.value) and baseline.value > 0):
            return dict.fromkeys([*names, "p_value"])
        with np.errstate(divide="ignore", invalid="ignore"):
            samples = relative_gap(self.samples, baseline.samples, self.higher_is_better)
        low, high = _central(samples, LEVEL)
        values = relative_gap(self.value, baseline.value, self.higher_is_better), low, high
        worse = {name: round(x, 2) if np.isfinite(x) else None for name, x in zip(names, values, strict=True)}
        return worse | {"p_value": round(paired_p_value(self, baseline), 4)}


def relative_gap(value: Number, baseline: Number, higher_is_better: bool) -> Number:
    """How much worse than the baseline, in percent of it, as the papers print it."""
    return (-100 if higher_is_better else 100) * (value / baseline - 1)


def _central(samples: np.ndarray, level: float) -> tuple[float, float]:
    """The ends of the central `level` of the samples that are numbers, or infinite: an end may be that, or nan."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    with np.errstate(invalid="ignore"):  # between two infinite samples
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_over_subsets(measures: Sequence[Measure]) -> Measure:
    """The measure of a test set from those of its subsets; of their details, those that are the same in all."""
    first = measures[0]
    same = {k: v for k, v in first.details.items() if all(measure.details.get(k) == v for measure in measures)}
    return replace(first, parts=[counts for measure in measures for counts in measure.parts], details=same)


def rate(errors: np.ndarray, lengths: np.ndarray, percent: bool = True, **details: Any) -> Measure:
    """sum(errors) / sum(lengths), in percent unless told otherwise; nan where the lengths are all 0; both (U,)."""
    return Measure([np.stack([errors, lengths], axis=1)], _percent if percent else _ratio, details=details)


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)


def _percent(sums: np.ndarray) -> np.ndarray:
    return 100 * _ratio(sums)


def paired_p_value(measure: Measure, baseline: Measure) -> float:
    """Two-sided chance that the sign of the difference to `baseline` is an accident of the test set.

    Both systems, scored on the same utterances in the same order, are evaluated on the same samples:
    p = 2 min(P(difference <= 0), P(difference >= 0)), each with one added count, at most 1.
    """
    differences = measure.samples - baseline.samples
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))
