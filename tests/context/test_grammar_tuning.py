"""The largest distance to accept, by the share of sentences that it may refuse."""

import math
import random

import pytest

from residualformer.context.grammar.tuning import choose


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.99])
def test_the_smallest_distance_that_refuses_no_more_than_the_share(share):
    draw = random.Random(1)
    for size in (1, 7, 50, 100):
        distances = sorted(draw.uniform(0, 9) for _ in range(size))
        reject = choose(distances, share)
        assert sum(distance > reject for distance in distances) <= share * size
        smaller = [distance for distance in (0.0, *distances) if distance < reject]
        assert all(sum(distance > other for distance in distances) > share * size for other in smaller)


def test_it_is_never_below_zero_and_infinite_where_too_many_have_none():
    assert choose([-3.0, -2.0], 0.0) == 0.0
    assert choose([1.0, 2.0, math.inf], 0.0) == math.inf
    assert choose([1.0, 2.0, math.inf], 0.34) == 2.0
