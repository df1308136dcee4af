"""Confidences of labels and words: their two features, and the combination of these.

The features are the probability of the labels by the model, and the share of the probability of all hypotheses that
agree. Greedy search has the first one alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residualformer.hypothesis import Hypothesis

CERTAIN = 1 - 1e-4  # probabilities are limited to this and to 1 minus this


@dataclass(frozen=True)
class Logistic:
    """A confidence: the logistic function of `bias` plus the weighted log-odds of both features."""

    bias: float
    label: float
    agreement: float

    def __call__(self, log_probabilities: NDArray[np.float64], agreements: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the confidences (M,) of log-probabilities of labels and agreements of hypotheses, both (M,)."""
        return 1 / (1 + np.exp(-features(log_probabilities, agreements) @ [self.bias, self.label, self.agreement]))


def features(log_probabilities: NDArray[np.float64], agreements: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inputs (M, 3) of `Logistic`: 1, and the log-odds of both, which are limited by `CERTAIN`."""
    both = np.stack([np.exp(log_probabilities), agreements], axis=1).clip(1 - CERTAIN, CERTAIN)
    return np.concatenate([np.ones((len(both), 1)), np.log(both) - np.log1p(-both)], axis=1)


def fit(inputs: NDArray[np.float64], right: NDArray[np.bool_]) -> Logistic:
    """Return the logistic regression of `right` (M,) on `features` (M, 3), by Newton's method.

    A penalty as of one observation pulls the weights toward 0, so that there is a solution whatever was observed. A
    feature whose weight is negative is left out: more agreement never means less confidence.
    """
    used = [0, 1, 2] if len(set(inputs[:, 2].tolist())) > 1 else [0, 1]
    while True:
        weights = np.zeros(3)
        weights[used] = _newton(inputs[:, used], right.astype(np.float64))
        negative = [index for index in used if index > 0 and weights[index] < 0]
        if not negative:
            return Logistic(*np.round(weights, 4).tolist())
        used = [index for index in used if index not in negative]


def _newton(x: NDArray[np.float64], y: NDArray[np.float64], steps: int = 50) -> NDArray[np.float64]:
    """Return the weights (F,) that minimize the logistic loss of x (M, F) and y (M,) plus half their squared norm."""
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(x @ weights).clip(-50, 50)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(x.shape[1])
        weights += np.linalg.solve(hessian, x.T @ (y - p) - weights)
    return weights


def posteriors(nbest: Sequence[Hypothesis], token_reward: float) -> list[float]:
    """Return the probability of each hypothesis among all, by what the search orders them by.

    That is the model's log-probability, with the reward of its labels, plus what scorers of a context have added.
    """
    scores = np.array([each.score + token_reward * len(each.written) + each.context for each in nbest])
    shares = np.exp(scores - scores.max())
    return (shares / shares.sum()).tolist()


def agreement(sequences: Sequence[Sequence[Hashable]], shares: Sequence[float]) -> NDArray[np.float64]:
    """Return for each item of the first sequence the total share of the sequences that have it at its place.

    Each sequence is aligned with the first by the fewest edits.
    """
    best = sequences[0]
    found = np.full(len(best), shares[0])
    for sequence, share in zip(sequences[1:], shares[1:], strict=True):
        found[[place for place, _ in pairs(best, sequence)]] += share
    return found.clip(0, 1)


def pairs(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the places in both sequences of the items that stay in an alignment of fewest edits."""
    start, shorter = 0, min(len(one), len(other))
    while start < shorter and one[start] == other[start]:
        start += 1
    end = 0
    while end < shorter - start and one[-1 - end] == other[-1 - end]:
        end += 1
    middle = _pairs(one[start : len(one) - end], other[start : len(other) - end])
    tail = zip(range(len(one) - end, len(one)), range(len(other) - end, len(other)), strict=True)
    return [*((place, place) for place in range(start)), *((start + i, start + j) for i, j in middle), *tail]


def _pairs(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return what `pairs` does, by Levenshtein's table of costs."""
    costs = [list(range(len(other) + 1))]
    for i, item in enumerate(one, start=1):
        row, above = [i], costs[-1]
        for j, each in enumerate(other, start=1):
            row.append(min(above[j - 1] + (item != each), above[j] + 1, row[-1] + 1))
        costs.append(row)
    i, j, found = len(one), len(other), []
    while i and j:
        if costs[i][j] == costs[i - 1][j - 1] + (one[i - 1] != other[j - 1]):
            i, j = i - 1, j - 1
            if one[i] == other[j]:
                found.append((i, j))
        elif costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error (Guo et al., 2017, section 2) over `bins` bins of equal width."""
    return sum(
        count * abs(confidence - accuracy) for count, confidence, accuracy in reliability(confidences, right, bins)
    ) / max(len(right), 1)


def reliability(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10
) -> list[tuple[int, float, float]]:
    """Return number, mean confidence and share of right ones of each bin of equal width that is not empty."""
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    rows = [place == number for number in range(bins)]
    return [(int(row.sum()), float(confidences[row].mean()), float(right[row].mean())) for row in rows if row.any()]


def mean(confidences: Sequence[float]) -> float | None:
    """Return the confidence of an utterance, the share of its words that is expected to be right; None of no words."""
    return math.fsum(confidences) / len(confidences) if len(confidences) else None
