"""Factors: the best approximation of every rank at once, and nothing lost at full rank."""

from __future__ import annotations

import pytest
import torch

from residualformer.compress.factorise import factorise, refactorise
from residualformer.errors import UserError


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (12, 12)])
def test_full_rank_loses_nothing(shape):
    weight = random(*shape)
    p1, p2 = factorise(weight, min(shape))
    torch.testing.assert_close(p1 @ p2.T, weight, rtol=1e-5, atol=3e-6)  # fp32 products of a dozen numbers of size 1


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_every_truncation_is_the_best_of_its_rank(rank):
    """Eckart and Young: the squared error is the sum of the squared singular values that are left out."""
    weight = random(24, 10).double()
    p1, p2 = factorise(weight, 10)
    error = (weight - p1[:, :rank] @ p2[:, :rank].T).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(weight)[rank:].square().sum())


def test_both_factors_bear_the_same_share():
    p1, p2 = factorise(random(24, 10), 6)
    torch.testing.assert_close(p1.norm(dim=0), p2.norm(dim=0))
    assert torch.equal(p1.norm(dim=0), p1.norm(dim=0).sort(descending=True).values)


@pytest.mark.parametrize(("rows", "columns", "held"), [(24, 10, 6), (10, 24, 6), (4, 24, 6), (24, 4, 6)])
def test_factors_that_training_has_mixed_are_ordered_again(rows, columns, held):
    """Also where the factors are wider than the matrix."""
    p1, p2 = random(rows, held).double(), random(columns, held, seed=2).double()
    rank = min(rows, columns, held)
    for wanted in (rank, 3):
        again = refactorise(p1, p2, wanted)
        direct = factorise(p1 @ p2.T, wanted)
        torch.testing.assert_close(again[0] @ again[1].T, direct[0] @ direct[1].T)  # columns themselves: up to a sign
        torch.testing.assert_close(again[0].norm(dim=0), direct[0].norm(dim=0))


@pytest.mark.parametrize("rank", [0, 11])
def test_a_rank_that_cannot_be_is_refused(rank):
    with pytest.raises(UserError, match="factors of rank .* allowed: 1 to 10; choose a higher compression"):
        factorise(random(24, 10), rank)


def test_factors_cannot_give_a_higher_rank_than_they_have():
    with pytest.raises(UserError, match="allowed: 1 to 6"):
        refactorise(random(24, 6), random(10, 6), 7)
