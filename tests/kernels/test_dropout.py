"""Dropout from a pool of masks: its mean, its scale, and the same masks from the same seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from residualformer.kernels import dropout
from residualformer.kernels.dropout import Dropout, seed_pools


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(dropout, "_POOL_SIZE", 1 << 16)
    monkeypatch.setattr(dropout, "_pools", {})
    monkeypatch.setattr(dropout, "_seed", 0)
    torch.manual_seed(0)


def of_three_pools(count: int) -> Iterator[int]:
    """Count to `count`, with three pools of masks on the way."""
    for i in range(count):
        seed_pools(3 * i // count)
        yield i


@pytest.mark.parametrize("size", [100 * 100, 300 * 300])  # from the pool, and larger than half of it
def test_drops_the_share_and_keeps_the_mean(size):
    layer = Dropout(0.3).train()
    y = torch.stack([layer(torch.ones(size)) for _ in of_three_pools(12)])
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert y.eq(0).float().mean().item() == pytest.approx(0.3, abs=0.01)  # five standard errors of three pools
    assert not torch.equal(y[0], y[1])
    assert torch.equal(layer.eval()(y), y) and torch.equal(Dropout(0.0).train()(y), y)


@pytest.mark.parametrize("size", [100 * 100, 300 * 300])  # from the pool, and larger than half of it
def test_output_and_gradient_are_those_of_the_mask_that_was_drawn(size):
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3).train()(x)
    mask = y.detach() != 0
    torch.testing.assert_close(y, x * mask / 0.7, rtol=1e-15, atol=0)  # x (1 / 0.7) is rounded twice
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, mask.double() / 0.7, rtol=1e-15, atol=0)


def test_the_seeds_decide_the_masks_whatever_was_drawn_before():
    layers = [Dropout(0.2).train(), Dropout(0.5).train()]

    def draw(pools: int, place: int) -> list[torch.Tensor]:
        seed_pools(pools)
        torch.manual_seed(place)
        return [layer(torch.ones(50, dtype=dtype)) for layer in layers for dtype in (torch.float32, torch.bfloat16)] + [
            layers[0].bits(torch.Size([50]), torch.float32)
        ]

    first = draw(1, 1)
    assert all(map(torch.equal, draw(1, 1), first))
    assert not any(map(torch.equal, draw(1, 2), first)) and not any(map(torch.equal, draw(2, 1), first))
    assert all(map(torch.equal, draw(1, 1), first))


def test_a_pool_is_drawn_once_for_its_seed(monkeypatch):
    drawn = []
    monkeypatch.setattr(dropout, "_draw", lambda p, dtype, seed: drawn.append(seed) or torch.ones(1 << 16, dtype=dtype))
    for seed in (1, 1, 2, 2, 2):
        seed_pools(seed)
        Dropout(0.2).train()(torch.ones(50))
    assert drawn == [1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [100 * 100, 300 * 300])  # from the pool, and larger than half of it
def test_bits_drop_their_share(dtype, size):
    layer = Dropout(0.3).train()
    x = torch.randn(size, dtype=dtype)
    shares = []
    for _ in of_three_pools(12):
        bits = layer.bits(x.shape, dtype)
        y = (x.view(bits.dtype) & bits).view(dtype)
        assert torch.equal(y[y != 0], x[y != 0])
        shares.append(y.eq(0).float().mean().item())
    assert sum(shares) / 12 == pytest.approx(0.3, abs=0.01)  # five standard errors of three pools
    assert layer.eval().bits(x.shape, dtype) is None and Dropout(0.0).train().bits(x.shape, dtype) is None
