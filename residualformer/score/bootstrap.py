"""Confidence of an error rate: resample the utterances of the test set with replacement.

Source: Bisani & Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation". Utterances
are drawn independently; where a few speakers hold the test set, the true uncertainty is larger.
"""

from __future__ import annotations

import numpy as np

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95


def resampled_sums(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Column sums (R, C) of `counts` (U, C) over R samples of U utterances, drawn with replacement."""
    generator = np.random.default_rng(seed)
    utterances = len(counts)
    chances = np.full(utterances, 1 / utterances)
    # One draw says how often each utterance is in the sample; drawn one by one, it needs no (R, U) table.
    return np.stack([generator.multinomial(utterances, chances) @ counts for _ in range(resamples)])


def rate_interval(
    errors: np.ndarray, lengths: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED, level: float = LEVEL
) -> tuple[float, float]:
    """The central `level` interval of 100 x sum(errors) / sum(lengths); `errors`, `lengths` (U,). Percentile method."""
    sums = resampled_sums(np.stack([errors, lengths], axis=1), resamples, seed)
    rates = 100.0 * sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(errors: np.ndarray, baseline: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Two-sided chance that the sign of the difference in errors to `baseline` is an accident of the test set.

    Both systems, errors (U,) on the same utterances in the same order, are evaluated on the same samples:
    p = 2 min(P(difference <= 0), P(difference >= 0)), each with one added count, at most 1.
    """
    differences = resampled_sums((errors - baseline)[:, None], resamples, seed)[:, 0]
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (resamples + 1)))
