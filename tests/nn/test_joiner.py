"""Both joiners: their halves add up, and the loss of their parts is that of their logits."""

from __future__ import annotations

import pytest
import torch

from residualformer.loss import get_backend, rnnt_loss
from residualformer.loss.objective import exact_loss
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner

N, T, S, D, P, V = 3, 7, 4, 5, 6, 9


@pytest.mark.parametrize("joiner", [TanhJoiner(D, P, 8, V), AdditiveJoiner(D, P, V)], ids=["tanh", "additive"])
def test_the_two_sides_apart_give_the_same(joiner):
    encoded, predicted = torch.randn(N, T, 1, D), torch.randn(N, 1, S + 1, P)
    joint = joiner.project_encoder(encoded) + joiner.project_predictor(predicted)
    assert joiner(encoded, predicted).shape == (N, T, S + 1, V)
    torch.testing.assert_close(joiner.output(joint), joiner(encoded, predicted))


def test_the_additive_joiner_has_the_two_projections_and_nothing_else():
    assert sum(p.numel() for p in AdditiveJoiner(D, P, V).parameters()) == (D + 1) * V + P * V


@pytest.mark.parametrize("joiner", [TanhJoiner(D, P, 8, V), AdditiveJoiner(D, P, V)], ids=["tanh", "additive"])
def test_the_loss_of_a_joiner_is_that_of_its_logits(joiner):
    """Values and gradients, with ragged lengths; float64, so that only rounding differs."""
    joiner = joiner.double()
    generator = torch.Generator().manual_seed(0)
    encoded, predicted = (
        torch.randn(N, size, dim, generator=generator, dtype=torch.float64, requires_grad=True)
        for size, dim in ((T, D), (S + 1, P))
    )
    tokens = torch.randint(1, V, (N, S), generator=generator)
    boundary = torch.tensor([[0, 0, S, T], [0, 0, 2, T - 3], [0, 0, 0, T]])
    logits = joiner(encoded.unsqueeze(2), predicted.unsqueeze(1))
    expected = rnnt_loss(logits, tokens, 0, boundary, reduction="sum")
    value = exact_loss(joiner, encoded, predicted, tokens, boundary, get_backend("torch"))
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=1e-10)
    leaves = [encoded, predicted, *joiner.parameters()]
    ours, theirs = torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
