"""Error counts against a plain edit distance."""

from __future__ import annotations

import math

import pytest
from support.decoded_runs import sentences

from residualformer.metrics.wer import count_errors


def distance(a, b) -> int:
    """Levenshtein's distance, by its recursion."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize("unit", ["word", "character"])
def test_errors_are_minimal_and_add_up(unit):
    references, hypotheses = sentences(60, 1), sentences(60, 2)
    counts = count_errors(references, hypotheses, unit)
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        a, b = (reference.split(), hypothesis.split()) if unit == "word" else (reference, hypothesis)
        assert counts.errors[i] == distance(a, b) and counts.lengths[i] == len(a)
        assert len(a) - counts.deletions[i] + counts.insertions[i] == len(b)
    assert counts.rate == pytest.approx(100 * counts.errors.sum() / counts.lengths.sum())


def test_kinds_of_errors():
    counts = count_errors(["a b c d", "a", "", "x  y"], ["a x d", "", "b c", "x y"])
    assert counts.substitutions.tolist() == [1, 0, 0, 0]
    assert counts.deletions.tolist() == [1, 1, 0, 0]
    assert counts.insertions.tolist() == [0, 0, 2, 0]
    assert counts.rate == pytest.approx(100 * 5 / 7)
    assert math.isnan(count_errors([""], ["a"]).rate)
