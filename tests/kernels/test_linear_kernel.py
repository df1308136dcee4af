"""Linear products and dense weights as they are trained on a CPU against PyTorch's operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from residualformer.kernels.linear import WeightParts, dense_weight, linear, plain_dense_weight

N, T, M = 2, 5, 4


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    """x, weight, bias."""
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((N, T, M), (6, M), (6,))]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_gradients_are_those_of_pytorchs_linear(dtype, tolerance):
    leaves = inputs(dtype)
    results = []
    for function in (F.linear, linear):
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert "_Linear" in y.grad_fn.name()
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)  # sums of a few numbers around 1


def test_a_product_without_gradients_is_pytorchs():
    x, weight, bias = inputs(torch.float32)
    assert torch.equal(linear(x.detach(), weight, bias), F.linear(x, weight, bias))
    with torch.no_grad():
        assert not linear(x * 1, weight, bias).requires_grad


def projections(m: int, rank: int, diagonal: bool) -> list[WeightParts]:
    """Two of them, in float64, every number random."""
    torch.manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    return [
        WeightParts(
            leaf(n, m),
            leaf(m, rank) if rank else None,
            leaf(rank, n) if rank else None,
            leaf(min(m, n)) if diagonal else None,
        )
        for n in (5, 9)
    ]


@pytest.mark.parametrize("m", [4, 7, 12])
@pytest.mark.parametrize("rank, diagonal", [(0, False), (0, True), (3, False), (3, True)])
def test_dense_weights_are_the_papers_sums_with_their_gradients(m, rank, diagonal):
    parts = projections(m, rank, diagonal)
    leaves = [leaf for each in parts for leaf in each if leaf is not None]
    towards = torch.randn(14, m, dtype=torch.float64)
    results = []
    for function in (plain_dense_weight, dense_weight):
        weight = function(parts, torch.float64)
        results.append([weight, *torch.autograd.grad((weight * towards).sum(), leaves)])
    assert "_DenseWeight" in weight.grad_fn.name()
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)  # float64 sums of at most 12 numbers around 1
    with torch.no_grad():
        assert torch.equal(dense_weight(parts, torch.float64), weight)


def test_dense_weights_are_rounded_once_and_new():
    parts = projections(6, 3, True)
    exact = dense_weight(parts, torch.float64)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert torch.equal(dense_weight(parts, torch.bfloat16), exact.bfloat16())
            with torch.no_grad():
                assert torch.equal(dense_weight(parts, torch.bfloat16), exact.bfloat16())
    shared = [WeightParts(parts[0].W, None, None, None)]
    with torch.no_grad():
        assert dense_weight(shared, torch.float64).data_ptr() != parts[0].W.data_ptr()
    assert dense_weight(shared, torch.float64).data_ptr() != parts[0].W.data_ptr()
