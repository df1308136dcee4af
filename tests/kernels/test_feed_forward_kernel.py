"""The feed-forward part as a model trains it on a CPU against the plain one and against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from residualformer.kernels import feed_forward as module
from residualformer.kernels.dropout import Dropout
from residualformer.kernels.feed_forward import feed_forward, plain_feed_forward

N, T, D, FFN = 2, 5, 4, 6


class Given(Dropout):
    """Dropout of a given share, always by the same mask of the hidden numbers."""

    def __init__(self, p: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(p)
        self.mask = super().bits(torch.Size([N, T, FFN]), dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.mask is None else x * (self.mask != 0) / (1 - self.p)

    def bits(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor | None:
        assert self.mask is None or (shape == self.mask.shape and dtype.itemsize == self.mask.dtype.itemsize)
        return self.mask


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    """x, up, its bias, down, its bias."""
    torch.manual_seed(0)
    shapes = (N, T, D), (FFN, D), (FFN,), (D, FFN), (D,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def fast(x, up, up_bias, down, down_bias, dropout):
    weights = {"up": (up, up_bias), "down": (down, down_bias)}
    return feed_forward(x, "up", "down", dropout, lambda name: weights[name])


def plain(x, up, up_bias, down, down_bias, dropout):
    return plain_feed_forward(x, lambda y: F.linear(y, up, up_bias), lambda y: F.linear(y, down, down_bias), dropout)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_it_equals_the_plain_one_with_its_gradients(p):
    leaves, dropout = inputs(torch.float64), Given(p)
    results = []
    for function in (plain, fast):
        y = function(*leaves, dropout)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.autograd.gradcheck(lambda *values: fast(*values, dropout), leaves)


def test_in_bf16_it_is_as_far_from_the_exact_result_as_the_plain_one():
    exact = [leaf.detach().bfloat16().double() for leaf in inputs(torch.float64)]
    dropout = Given(0.4, torch.bfloat16)
    expected = plain(*exact, dropout)
    errors = []
    for function in (fast, plain):
        y = function(*(leaf.bfloat16().requires_grad_() for leaf in exact), dropout)
        assert y.dtype == torch.bfloat16
        errors.append((y.double() - expected).square().mean().sqrt())
    assert errors[0] < 1.5 * errors[1] < 0.1  # outputs around 4, of 8 bits


def test_only_training_takes_the_fast_path(monkeypatch):
    leaves = inputs(torch.float64)
    assert "_FeedForward" in fast(*leaves, Given(0.4)).grad_fn.name()
    monkeypatch.setattr(module, "plain_feed_forward", lambda *arguments: "plain")
    assert fast(leaves[0].detach(), *leaves[1:], Given(0.4)) == "plain"
