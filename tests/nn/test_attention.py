"""The attention that is trained on a CPU against the plain one, and its gradients against finite differences."""

from __future__ import annotations

import copy

import pytest
import torch

from residualformer.nn.attention import SelfAttention, TrainedAttention, additive, attend, rotary_table, rotate
from residualformer.nn.linear import ResidualLinear

N, T, H, D = 2, 7, 2, 12


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Projections (N, T', 3 D), a mask (N, 1, T', T') and a table."""
    torch.manual_seed(0)
    mask = (torch.rand(N, 1, T, T) > 0.5) | torch.eye(T, dtype=torch.bool)
    table = tuple(part.to(dtype) for part in rotary_table(T, D // H, torch.device("cpu")))
    return torch.randn(N, T, 3 * D, dtype=dtype, requires_grad=True), mask, table


def plain(projections, mask, table):
    q, k, v = (part.unflatten(2, (H, -1)).transpose(1, 2) for part in projections.chunk(3, dim=2))
    return attend(rotate(q, *table), rotate(k, *table), v, mask).transpose(1, 2).flatten(2)


def test_it_is_rotate_and_attend():
    projections, mask, table = inputs(torch.float64)
    weights = torch.randn(N, T, D, dtype=torch.float64)
    results = []
    for function in (plain, lambda x, *rest: TrainedAttention.apply(x, additive(mask, H, x.dtype), table, H)):
        y = function(projections, mask, table)
        results.append((y, *torch.autograd.grad((y * weights).sum(), projections)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)  # float64 sums of some ten numbers around 1


def test_its_gradients_are_those_of_finite_differences():
    projections, mask, table = inputs(torch.float64)
    torch.autograd.gradcheck(TrainedAttention.apply, (projections, additive(mask, H, torch.float64), table, H))


def test_in_bf16_it_is_as_far_from_the_exact_result_as_the_plain_one():
    exact_projections, mask, table = inputs(torch.float64)
    projections = exact_projections.detach().bfloat16().requires_grad_()
    exact = plain(projections.double(), mask, table)
    found = TrainedAttention.apply(projections, additive(mask, H, torch.bfloat16), table, H)
    other = plain(projections, mask, table)
    assert found.dtype == torch.bfloat16
    errors = [(each.double() - exact).square().mean().sqrt() for each in (found, other)]
    assert errors[0] < 1.5 * errors[1] < 0.03  # 8 bits of 1 are 0.004, and q, k, scores, weights are rounded


@pytest.mark.parametrize("rank, diagonal", [(0, False), (2, True)])
def test_whole_utterances_are_those_of_forward(rank, diagonal):
    """Of one product for q, k and v, and of either attention; gradients of every parameter as well."""
    torch.manual_seed(0)
    names = ("q", "k", "v", "out")
    shared = torch.nn.ModuleDict({name: torch.nn.Linear(D, D) for name in names}).double()
    own = {name: ResidualLinear(shared[name], rank, diagonal).double() for name in names}
    attention = SelfAttention(own, H)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    _, mask, table = inputs(torch.float64)
    x = torch.randn(N, T, D, dtype=torch.float64)
    learning = [*shared.parameters(), *attention.parameters()]
    results = []
    for run in (lambda: attention(x, T, None, mask, table)[0], lambda: attention.whole(x, mask, table, {}),
                lambda: attention.whole(x, additive(mask, H, x.dtype), table, {})):  # fmt: skip
        y = run()
        results.append([y, *torch.autograd.grad(y.square().sum(), learning)])
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_mask_becomes_numbers_for_every_head():
    mask = torch.tensor([[[[True, False], [True, True]]], [[[True, True], [False, True]]]])
    numbers = additive(mask, 3, torch.float32)
    before = copy.deepcopy(mask)
    assert numbers.shape == (6, 2, 2) and set(numbers.unique().tolist()) == {float("-inf"), 0.0}
    for row in range(6):
        assert torch.equal(numbers[row] == 0, mask[row // 3, 0])
    assert torch.equal(mask, before)
