"""Intervals and p-values against theory, and against test sets that are written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.decoded_runs import translations

from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.bootstrap import Score, mean_over_subsets, paired_p_value, rate, resampled_sums


def test_interval_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(3)
    lengths = generator.integers(5, 15, 800)
    errors = generator.binomial(lengths, 0.12)
    measure = rate(errors, lengths)
    ratio = errors.sum() / lengths.sum()
    sigma = 100 * (errors - ratio * lengths).std() / lengths.mean() / math.sqrt(800)  # of a ratio, delta method
    ends = 100 * ratio - 1.96 * sigma, 100 * ratio + 1.96 * sigma
    assert measure.interval() == pytest.approx(ends, abs=0.15 * sigma) and measure.value == pytest.approx(100 * ratio)
    assert measure.interval() == rate(errors, lengths).interval()
    assert rate(np.array([2, 2]), np.array([8, 8])).interval() == (25, 25)
    assert rate(np.array([0]), np.array([0])).rounded() == Score(value=None, low=None, high=None)


def test_p_value_is_large_by_chance_small_for_a_real_gap_and_symmetric():
    generator = np.random.default_rng(4)
    base = generator.poisson(1.0, 500)
    same, worse = generator.permutation(base), base + (generator.random(500) < 0.05)
    base, same, worse = (rate(errors, np.full(500, 3)) for errors in (base, same, worse))
    assert paired_p_value(base, base) == 1
    assert paired_p_value(worse, base) < 0.002 and paired_p_value(base, worse) == paired_p_value(worse, base)
    assert paired_p_value(same, base) > 0.9  # the totals are equal
    z = generator.normal(size=(100, 100)).round().astype(int)  # no gap but chance: p is uniform, 5% of 100 = 5 +- 2.2
    zero = rate(np.zeros(100), np.ones(100))
    assert 1 <= sum(paired_p_value(rate(row, np.ones(100)), zero) < 0.05 for row in z) <= 12


def test_a_gap_to_a_baseline_that_hardly_errs_has_no_upper_end():
    """Of resampled test sets exp(-2) = 14% hold neither of its two errors, so that the 97.5% quantile is infinite."""
    errors = np.zeros((2, 100), dtype=int)
    errors[0, :2], errors[1, :8] = 1, 1
    baseline, run = (rate(row, np.full(100, 5)) for row in errors)
    gap = run.gap(baseline)
    assert gap.relative == 300 and gap.relative_low >= 0 and gap.relative_high is None


def test_the_mean_is_resampled_within_each_subset():
    pairs = [translations(n, seed, 0.2) for n, seed in ((15, 1), (25, 2))]
    parts = [bleu_and_chrf(*pair)["bleu"] for pair in pairs]
    mean = mean_over_subsets(parts)
    second = parts[1].score(resampled_sums(parts[1].parts[0], seed=1))  # drawn on its own, not as the first
    np.testing.assert_allclose(mean.samples, (parts[0].samples + second) / 2, rtol=1e-12)
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]), rel=1e-12)
    assert mean.details == parts[0].details and paired_p_value(mean, mean) == 1
