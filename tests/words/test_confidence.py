"""Features of confidences, their combination, its fit and the measures of it, against counts by hand and by chance."""

import itertools
import math

import numpy as np
import pytest

from residualformer.hypothesis import Hypothesis
from residualformer.words.confidence import (
    Logistic,
    agreement,
    calibration_error,
    features,
    fit,
    mean,
    pairs,
    posteriors,
    reliability,
)


def test_agreement_is_the_share_of_hypotheses_that_have_the_word_at_its_place():
    sequences = ["the cat sat".split(), "the hat sat".split(), "a the cat".split(), []]
    assert agreement(sequences, [0.4, 0.3, 0.2, 0.1]) == pytest.approx([0.9, 0.6, 0.7])
    assert agreement([["x"]], [1.0]) == pytest.approx([1.0])
    assert agreement([[], ["x"]], [0.5, 0.5]).shape == (0,)


def test_pairs_are_those_of_the_fewest_edits():
    def fewest(one, other):
        if not one or not other:
            return len(one) + len(other)
        same = fewest(one[1:], other[1:]) + (one[0] != other[0])
        return min(same, fewest(one[1:], other) + 1, fewest(one, other[1:]) + 1)

    rng = np.random.default_rng(0)
    for _ in range(300):
        one, other = ("".join(rng.choice(list("ab"), rng.integers(0, 6))) for _ in range(2))
        found = pairs(one, other)
        assert all(one[i] == other[j] for i, j in found)
        around = [(-1, -1), *found, (len(one), len(other))]  # between two pairs all items are edited
        edits = (max(i - a, j - b) - 1 for (a, b), (i, j) in itertools.pairwise(around))
        assert sum(edits) == fewest(one, other)


def test_posteriors_are_by_what_the_search_goes_by():
    nbest = [Hypothesis([1, 2], [0, 1], -2.0, 0.5), Hypothesis([1], [0], -1.0), Hypothesis([], [], -3.0)]
    weights = [math.exp(score) for score in (-2.0 + 2 * 0.1 + 0.5, -1.0 + 0.1, -3.0)]
    assert posteriors(nbest, 0.1) == pytest.approx([each / sum(weights) for each in weights])
    assert posteriors([Hypothesis([], [], -9000.0)], 0.0) == [1.0]


def test_the_fit_finds_the_numbers_that_made_the_data():
    rng = np.random.default_rng(1)
    true = Logistic(-0.5, 0.7, 1.2)
    logp, share = np.log(rng.beta(2, 1, 40_000)), rng.beta(2, 1, 40_000)
    right = rng.random(40_000) < true(logp, share)
    found = fit(features(logp, share), right)
    # Standard errors of the three are about 0.02.
    assert [found.bias, found.label, found.agreement] == pytest.approx([-0.5, 0.7, 1.2], abs=0.08)
    assert calibration_error(found(logp, share), right) < 0.01
    assert calibration_error(Logistic(1.5, 0.7, 1.2)(logp, share), right) > 0.1


@pytest.mark.parametrize("right", [np.ones(50, bool), np.zeros(50, bool), np.zeros(0, bool)])
def test_there_is_a_fit_whatever_was_observed(right):
    logp = np.log(np.linspace(0.1, 1.0, len(right)))
    found = fit(features(logp, np.ones(len(right))), right)
    assert np.isfinite([found.bias, found.label, found.agreement]).all() and found.agreement == 0
    assert found.label >= 0


def test_confidences_are_finite_at_the_limits():
    found = Logistic(0, 1, 1)(np.array([0.0, -np.inf, -800.0]), np.array([1.0, 0.0, 0.5]))
    assert ((found > 0) & (found < 1)).all()


def test_reliability_and_its_error_by_hand():
    confidences, right = np.array([0.05, 0.15, 0.95, 1.0]), np.array([False, True, True, False])
    assert reliability(confidences, right) == [(1, 0.05, 0.0), (1, 0.15, 1.0), (2, pytest.approx(0.975), 0.5)]
    assert calibration_error(confidences, right) == pytest.approx((0.05 + 0.85 + 2 * 0.475) / 4)


def test_an_utterance_is_as_sure_as_its_words_on_average():
    assert mean([0.5, 1.0]) == 0.75 and mean([]) is None
