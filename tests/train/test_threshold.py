"""The shift of an arbitrator's logits that gives a wanted share of work, against trying all shifts."""

from __future__ import annotations

import pytest
import torch

from residualformer.train.threshold import shift_to_work, work_of_branches


def test_work_goes_from_one_to_zero():
    assert work_of_branches([5.0, 4.0, 2.0, 1.0]).tolist() == [1.0, 0.75, 0.25, 0.0]
    assert work_of_branches([7.3e6, 1.9e6]).tolist() == [1.0, 0.0]  # to the bit
    assert work_of_branches([3.0, 3.0]).tolist() == [1.0, 0.0]  # before they are pruned
    assert work_of_branches([3.0, 3.0, 3.0]).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("flops", [[2.0, 1.0], [5.0, 4.0, 2.0, 1.0], [3.0, 1.0, 1.0]], ids=str)
def test_no_shift_comes_nearer(flops):
    torch.manual_seed(1)
    logits, work = torch.randn(40, len(flops), dtype=torch.float64), work_of_branches(flops)

    def mean_work(shift: float) -> float:
        return float(work[(logits + shift * work).argmax(1)].mean())

    tried = [mean_work(shift) for shift in torch.linspace(-30, 30, 60_001).tolist()]
    possible = sorted({round(each, 12) for each in tried} - {0.0, 1.0})
    for target in (0.05, 0.3, 0.5, 0.9):
        found = mean_work(float(shift_to_work(logits, work, target)))
        nearest = min(abs(each - target) for each in possible)
        assert abs(found - target) == pytest.approx(nearest, abs=1e-9)


def test_of_two_branches_it_is_midway_between_two_margins():
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 2.0], [3.0, 0.0]])  # margins 1, -0.5, -2, 3
    work = torch.tensor([1.0, 0.0])
    assert float(shift_to_work(logits, work, 0.75)) == 1.25  # the third of 3, 1, -0.5 | -2
    assert float(shift_to_work(logits, work, 0.0)) == float(shift_to_work(logits, work, 0.25)) == -2.0  # never none
    assert float(shift_to_work(logits, work, 1.0)) == 1.25  # nor all
