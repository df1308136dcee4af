"""The exact interval of a count, against printed tables."""

from __future__ import annotations

import math

import pytest

from residualformer.metrics.poisson import poisson_interval


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (2, 0.2422, 7.2247), (10, 4.7954, 18.3904), (100, 81.3640, 121.6272)],
)
def test_the_interval_is_that_of_printed_tables(count, low, high):
    assert poisson_interval(count) == pytest.approx((low, high), abs=5e-4)


def test_without_events_the_end_is_a_logarithm():
    assert poisson_interval(0, level=0.9)[1] == pytest.approx(-math.log(0.05), rel=1e-9)
