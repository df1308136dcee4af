"""The attention of a layer: whole utterances and chunks of them, with one product for q, k and v or with three."""

from __future__ import annotations

import pytest
import torch

from residualformer.kernels.attention import AttentionMask
from residualformer.nn.attention import SelfAttention, rotary_table
from residualformer.nn.linear import DenseWeights, ResidualLinear

N, T, H, D = 2, 7, 2, 12


@pytest.mark.parametrize("rank, diagonal", [(0, False), (2, True)])
def test_whole_utterances_are_a_step_without_a_past(rank, diagonal):
    """As trained on a CPU and by PyTorch's own attention; gradients of every parameter as well."""
    torch.manual_seed(0)
    names = ("q", "k", "v", "out")
    shared = torch.nn.ModuleDict({name: torch.nn.Linear(D, D) for name in names}).double()
    own = {name: ResidualLinear(shared[name], rank, diagonal).double() for name in names}
    attention = SelfAttention(own, H)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    allowed = (torch.rand(N, 1, T, T) > 0.5) | torch.eye(T, dtype=torch.bool)
    table = tuple(part.double() for part in rotary_table(T, D // H, torch.device("cpu")))
    x = torch.randn(N, T, D, dtype=torch.float64)
    past = torch.zeros(2, N, H, 0, D // H, dtype=torch.float64)
    learning = [*shared.parameters(), *attention.parameters()]
    results = []
    for run in (
        lambda: attention.step(x, T, tuple(past), allowed, table)[0],
        lambda: attention(x, AttentionMask(allowed), table, DenseWeights()),  # x needs no gradient: PyTorch's linear
        lambda: attention(x.clone().requires_grad_(), AttentionMask(allowed), table, DenseWeights()),
    ):
        y = run()
        results.append([y, *torch.autograd.grad(y.square().sum(), learning)])
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_products_of_rotated_vectors_depend_on_distance_alone():
    from residualformer.kernels.attention import rotate

    cos, sin = rotary_table(20, D, torch.device("cpu"))
    q, k = torch.randn(2, 1, 1, 1, D, dtype=torch.float64).expand(2, 1, 1, 20, D)
    products = rotate(q, cos, sin)[0, 0] @ rotate(k, cos, sin)[0, 0].T
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)  # an fp32 table


def test_a_table_is_formed_once_and_a_shorter_one_is_its_beginning():
    table = rotary_table(30, 8, torch.device("cpu"))
    assert rotary_table(30, 8, torch.device("cpu"))[0] is table[0]
    for part, short in zip(table, rotary_table(11, 8, torch.device("cpu")), strict=True):
        assert torch.equal(part[:11], short) and part.dtype == torch.float32
    with torch.inference_mode():
        assert not rotary_table(31, 8, torch.device("cpu"))[0].is_inference()  # so that training may use it after
