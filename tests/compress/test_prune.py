"""Pruning: eq. 3 to the letter, exact counts, whole blocks, and weights that come back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from residualformer.compress.prune import BranchPruner, PruningSchedule, magnitude_mask
from residualformer.errors import UserError


def test_the_schedule_is_equation_3():
    schedule = PruningSchedule(0.8, num_updates=5, every_steps=100)
    for m in range(0, 501, 100):
        assert schedule.sparsity(m) == pytest.approx(0.8 - 0.8 * (1 - m / 500) ** 3, abs=1e-15)
    assert schedule.sparsity(0) == 0 and schedule.sparsity(500) == schedule.sparsity(900) == 0.8
    assert [step for step in range(-100, 1000) if schedule.is_due(step)] == [0, 100, 200, 300, 400, 500]


def test_no_updates_touch_nothing():
    assert not any(PruningSchedule(0.5, 0, 10).is_due(step) for step in range(30))


@pytest.mark.parametrize("final", [-0.1, 1.0, 1.5])
def test_a_sparsity_outside_0_to_1_is_refused(final):
    with pytest.raises(UserError, match="give 0 or more and less than 1"):
        PruningSchedule(final, 1, 1)


@pytest.mark.parametrize("sparsity", [0.0, 0.15, 0.5, 0.8, 0.999])
def test_the_smallest_go_and_exactly_as_many_as_asked(sparsity):
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    mask = magnitude_mask(weight, sparsity)
    gone = round(sparsity * 960)
    assert int((~mask).sum()) == gone
    if gone:
        assert weight[~mask].abs().max() < weight[mask].abs().min()


def test_ties_do_not_change_the_count():
    assert int(magnitude_mask(torch.ones(7, 9), 1 / 3).sum()) == 42


@pytest.mark.parametrize("block", [4, 8])
def test_blocks_stay_or_go_together_ranked_by_their_norm(block):
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
    mask = magnitude_mask(weight, 0.75, block).view(16, -1, block)
    assert torch.equal(mask.all(2), mask.any(2))
    kept, norms = mask.all(2), weight.view(16, -1, block).norm(dim=2)
    assert int((~kept).sum()) == round(0.75 * kept.numel()) and norms[~kept].max() < norms[kept].min()


def test_a_short_last_block_is_ranked_like_the_others():
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0, 0.5]])  # blocks of 4 and 1
    assert magnitude_mask(weight, 0.5, 4).tolist() == [[False] * 4 + [True], [True] * 4 + [False]]


def test_a_masked_weight_that_outgrows_another_comes_back():
    weight = SimpleNamespace(W=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), mask=torch.ones(1, 4, dtype=torch.bool))
    pruner = BranchPruner([weight], PruningSchedule(0.5, num_updates=2, every_steps=10))
    assert pruner.update(0) and weight.mask.all() and not pruner.update(5)
    assert pruner.update(10) and weight.mask.tolist() == [[False, False, True, True]]  # 0.4375 of 4: 2
    weight.W[0, 0] = 9.0
    assert pruner.update(20) and weight.mask.tolist() == [[True, False, False, True]]
    weight.W[0, 1] = 9.0
    assert not pruner.update(30) and weight.mask.tolist() == [[True, False, False, True]]  # pruning is over


def test_the_trackers_of_two_branches_are_apart():
    weights = [SimpleNamespace(W=torch.randn(20, 20), mask=torch.ones(20, 20)) for _ in range(2)]
    for weight, final in zip(weights, (0.15, 0.8), strict=True):
        BranchPruner([weight], PruningSchedule(final, 3, 1)).update(3)
    assert [int((weight.mask == 0).sum()) for weight in weights] == [60, 320]
