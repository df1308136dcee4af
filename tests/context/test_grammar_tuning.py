"""The largest distance to accept, by the share of sentences that it may refuse."""

import math
import random

import pytest

from residualformer.context.grammar.tuning import balance, choose


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


@pytest.mark.parametrize("size", [1, 20, 60])
def test_balanced_mistakes_are_the_fewest_of_all_distances(size):
    draw = random.Random(2)
    inside = sorted(draw.gauss(0, 2) for _ in range(size))
    outside = [draw.choice([draw.gauss(4, 2), math.inf]) for _ in range(40)]

    def mistakes(reject: float) -> float:
        return sum(each > reject for each in inside) / size + sum(each <= reject for each in outside) / 40

    fewest = mistakes(balance(inside, outside))
    assert all(fewest <= mistakes(each / 100) + 1e-12 for each in range(1500))  # it is constant between distances


def test_one_phrase_that_is_hardly_understood_does_not_let_other_speech_pass():
    inside, outside = [-1.0] * 38 + [0.9, 5.0], [1.1, 1.2, 2.0, 3.0, math.inf, math.inf, math.inf, math.inf]
    assert balance(inside, outside) == 0.9 and choose(inside, 0.02) == 5.0
    assert balance([-1.0], [0.5]) == 0.0  # never below zero
