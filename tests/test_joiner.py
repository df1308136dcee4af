"""Both joiners: their halves add up, and the additive one's cheap loss is the exact one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.schema import LossConfig
from residualformer.train.objective import _exact, _simple

N, T, S, D, P, V = 3, 7, 4, 5, 6, 9


@pytest.mark.parametrize("joiner", [TanhJoiner(D, P, 8, V), AdditiveJoiner(D, P, V)], ids=["tanh", "additive"])
def test_the_two_sides_apart_give_the_same(joiner):
    encoded, predicted = torch.randn(N, T, 1, D), torch.randn(N, 1, S + 1, P)
    joint = joiner.project_encoder(encoded) + joiner.project_predictor(predicted)
    assert joiner(encoded, predicted).shape == (N, T, S + 1, V)
    torch.testing.assert_close(joiner.output(joint), joiner(encoded, predicted))


def test_the_additive_joiner_has_the_two_projections_and_nothing_else():
    assert sum(p.numel() for p in AdditiveJoiner(D, P, V).parameters()) == (D + 1) * V + P * V


def test_the_simple_loss_of_an_additive_joiner_is_exact():
    """Values and gradients, with ragged lengths; float64, so that only rounding differs."""
    torch.manual_seed(0)
    model = SimpleNamespace(joiner=AdditiveJoiner(D, P, V).double())
    tokens = torch.randint(1, V, (N, S))
    boundary = torch.tensor([[0, 0, S, T], [0, 0, 2, T - 3], [0, 0, 0, T]])
    results = []
    for loss in (_exact, _simple):
        generator = torch.Generator().manual_seed(1)
        encoded, predicted = (
            torch.randn(N, size, dim, generator=generator, dtype=torch.float64, requires_grad=True)
            for size, dim in ((T, D), (S + 1, P))
        )
        value = loss(model, encoded, predicted, tokens, boundary, LossConfig(backend="torch"))
        results.append((value.detach(), *torch.autograd.grad(value, [encoded, predicted, *model.joiner.parameters()])))
    for exact, simple in zip(*results, strict=True):
        torch.testing.assert_close(simple, exact, atol=1e-10, rtol=1e-10)
