"""The interval of the mean of a Poisson distribution, such as that of false alarms in an hour."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LEVEL = 0.95


def poisson_interval(count: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact central interval of the mean number of events where `count` were seen.

    Garwood (1936): the low end is the mean with which so many or more are seen with a chance of (1 - level) / 2, the
    high end that with which so many or fewer are. Unlike a bootstrap it is not empty where none was seen.
    """
    tail, most = (1 - level) / 2, count + 10 * math.sqrt(count + 1) + 10
    low = _root(lambda mean: 1 - _at_most(count - 1, mean) - tail, most) if count else 0.0
    return low, _root(lambda mean: tail - _at_most(count, mean), most)


def _at_most(count: int, mean: float) -> float:
    """Return the chance of `count` events or fewer."""
    events = np.arange(count + 1)
    return float(np.exp(events * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in events])).sum())


def _root(rising: Callable[[float], float], high: float) -> float:
    """Return where a function that rises from below 0 at 0 is 0, by bisection."""
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
