"""The layer of a Transformer: what is trained on a CPU against the same from torch's operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from residualformer.kernels.dropout import Dropout
from residualformer.nn.layer import TrainedFeedForward
from residualformer.nn.linear import Affine, product

N, T, D, FFN = 2, 5, 4, 6


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    """x, up, its bias, down, its bias."""
    torch.manual_seed(0)
    shapes = (N, T, D), (FFN, D), (FFN,), (D, FFN), (D,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(x, up, up_bias, down, down_bias, bits, scale):
    hidden = F.linear(x, up, up_bias).relu()
    return F.linear(hidden if bits is None else hidden * (bits != 0) * scale, down, down_bias)


def a_mask(dtype: torch.dtype, p: float) -> tuple[torch.Tensor | None, float]:
    return Dropout(p).train().bits(torch.Size([N, T, FFN]), dtype), 1 / (1 - p)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_feed_forward_and_its_gradients(p):
    leaves, mask = inputs(torch.float64), a_mask(torch.float64, p)
    results = []
    for function in (plain, TrainedFeedForward.apply):
        y = function(*leaves, *mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.autograd.gradcheck(TrainedFeedForward.apply, (*leaves, *mask))


def test_in_bf16_feed_forward_is_as_far_from_the_exact_result_as_the_plain_one():
    exact, mask = [leaf.detach().bfloat16().double() for leaf in inputs(torch.float64)], a_mask(torch.bfloat16, 0.4)
    expected = plain(*exact, *mask)
    errors = []
    for function in (TrainedFeedForward.apply, plain):
        y = function(*(leaf.bfloat16() for leaf in exact), *mask)
        assert y.dtype == torch.bfloat16
        errors.append((y.double() - expected).square().mean().sqrt())
    assert errors[0] < 1.5 * errors[1] < 0.1  # outputs around 4, of 8 bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_affine_gradients_are_those_of_linear(dtype):
    x, weight, bias = inputs(dtype)[:3]
    results = []
    for function in (F.linear, Affine.apply):
        y = function(x, weight, bias)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_a_product_in_bf16_is_rounded_once(relu):
    x, weight, bias = (leaf.detach().bfloat16() for leaf in inputs(torch.float64)[:3])
    exact = F.linear(x.double(), weight.double(), bias.double())
    found = product(x, weight, bias, relu)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact.relu() if relu else exact, rtol=2**-7, atol=2**-6)
