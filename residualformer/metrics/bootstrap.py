"""Confidence intervals and paired tests, by resampling the utterances of the test set with replacement.

Sources: Bisani & Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation"; Koehn
(2004), "Statistical significance tests for machine translation evaluation". Utterances are drawn independently; where
few speakers make up the test set, the true uncertainty is larger.
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
    """Return the column sums (R, C) of `counts` (U, C) over R samples of U utterances, drawn with replacement."""
    return np.stack([times @ counts for times in _draws(len(counts), resamples, seed)])


@lru_cache(maxsize=4)
def _draws(utterances: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each utterance is in each sample, (R, U); cached, because drawing is the slowest part."""
    generator, chances = np.random.default_rng(seed), np.full(utterances, 1 / utterances)
    return np.stack([generator.multinomial(utterances, chances).astype(np.int32) for _ in range(resamples)])


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score with its 95% interval, rounded; None where it is not a finite number."""

    value: float | None
    low: float | None
    high: float | None
    insertions: int | None = None  # of an error rate, as the next two
    deletions: int | None = None
    substitutions: int | None = None
    tokens: int | None = None  # of a loss per token: their number
    signature: str | None = None  # of BLEU and chrF: sacrebleu's


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The distance of a system from another in percent of the other's score, positive where it is worse.

    None where the two are not comparable.
    """

    relative: float | None
    relative_low: float | None = None  # the ends of the 95% interval. None for an infinite end, as where the other
    relative_high: float | None = None  # system makes no errors in many of the samples
    p_value: float | None  # two-sided, see `paired_p_value`


NO_GAP = Gap(relative=None, p_value=None)


@dataclass(frozen=True)
class Measure:
    """A score of a test set that follows from sums over its utterances: an error rate, BLEU, nats per token.

    The score of a test set with subsets is the mean of theirs.
    """

    parts: Sequence[np.ndarray]  # for each subset, counts (U, C) of its U utterances
    score: Callable[[np.ndarray], np.ndarray]  # maps sums of counts (R, C) to scores (R,)
    higher_is_better: bool = False
    details: dict[str, Any] = field(default_factory=dict)  # further fields of `Score`

    @cached_property
    def value(self) -> float:
        """The score of the test set."""
        return float(np.mean([self.score(counts.sum(0, keepdims=True))[0] for counts in self.parts]))

    @cached_property
    def samples(self) -> np.ndarray:
        """Scores (R,) of the resampled test sets; two measures of the same utterances see the same samples."""
        scores = [self.score(resampled_sums(counts, seed=SEED + i)) for i, counts in enumerate(self.parts)]
        return np.mean(scores, axis=0)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the ends of the central `level` interval of the score, by the percentile method."""
        return _central(self.samples, level)

    def rounded(self, digits: int = 2) -> Score:
        """Return the value and its interval, rounded to `digits`, with the details."""
        value, low, high = (_finite(x, digits) for x in (self.value, *self.interval()))
        return Score(value=value, low=low, high=high, **self.details)

    def gap(self, baseline: Measure) -> Gap:
        """Compare with `baseline` on the same samples of the same utterances.

        The gap is `NO_GAP` where this score is not finite or the baseline's is not above 0.
        """
        if not (np.isfinite(self.value) and baseline.value > 0):
            return NO_GAP
        with np.errstate(divide="ignore", invalid="ignore"):
            samples = relative_gap(self.samples, baseline.samples, self.higher_is_better)
        gap = relative_gap(self.value, baseline.value, self.higher_is_better)
        relative, low, high = (_finite(x, 2) for x in (gap, *_central(samples, LEVEL)))
        p_value = round(paired_p_value(self, baseline), 4)
        return Gap(relative=relative, relative_low=low, relative_high=high, p_value=p_value)


def _finite(x: float, digits: int) -> float | None:
    return round(x, digits) if np.isfinite(x) else None


def relative_gap(value: Number, baseline: Number, higher_is_better: bool) -> Number:
    """Return how much worse `value` is than `baseline`, in percent of it, as the papers print it."""
    return (-100 if higher_is_better else 100) * (value / baseline - 1)


def _central(samples: np.ndarray, level: float) -> tuple[float, float]:
    """Return the ends of the central `level` of the samples; NaN samples are ignored, and an end may be infinite."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    with np.errstate(invalid="ignore"):  # an interpolation between two infinite samples is NaN
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_over_subsets(measures: Sequence[Measure]) -> Measure:
    """Combine the measures of the subsets of a test set; details that differ between subsets are dropped."""
    first = measures[0]
    same = {k: v for k, v in first.details.items() if all(measure.details.get(k) == v for measure in measures)}
    return replace(first, parts=[counts for measure in measures for counts in measure.parts], details=same)


def rate(
    errors: np.ndarray, lengths: np.ndarray, percent: bool = True, details: dict[str, Any] | None = None
) -> Measure:
    """Return the measure sum(errors) / sum(lengths), both (U,); NaN where all lengths are 0."""

    def ratio(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (100 if percent else 1) * np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)

    return Measure([np.stack([errors, lengths], axis=1)], ratio, details=details or {})


def paired_p_value(measure: Measure, baseline: Measure) -> float:
    """Return the two-sided p-value of the difference to `baseline`.

    Both systems, scored on the same utterances in the same order, are evaluated on the same samples:
    p = 2 min(P(difference <= 0), P(difference >= 0)), each with one added count, at most 1.
    """
    differences = measure.samples - baseline.samples
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))
