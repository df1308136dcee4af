"""Dropout from a pool of masks: its mean, its scale, and going on with the same masks."""

from __future__ import annotations

import pytest
import torch

from residualformer.kernels import dropout
from residualformer.kernels.dropout import Dropout, pool_states, restore_pools


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(dropout, "_POOL_SIZE", 1 << 16)
    monkeypatch.setattr(dropout, "_REFRESH", 5)
    restore_pools([])
    torch.manual_seed(0)
    yield
    restore_pools([])


@pytest.mark.parametrize("size", [100 * 100, 300 * 300])  # from the pool, and larger than half of it
def test_drops_the_share_and_keeps_the_mean(size):
    layer = Dropout(0.3).train()
    y = torch.stack([layer(torch.ones(size)) for _ in range(12)])  # three pools
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


def test_goes_on_with_the_masks_it_would_have_drawn():
    layers = [Dropout(0.2).train(), Dropout(0.5).train()]

    def draw(count: int) -> list[torch.Tensor]:
        return [
            layer(torch.ones(50, dtype=dtype))
            for _ in range(count)
            for layer in layers
            for dtype in (torch.float32, torch.bfloat16)
        ] + [layers[0].bits(torch.Size([50]), torch.float32)]

    draw(3)  # in the middle of a pool
    pools, random = pool_states(), torch.get_rng_state()
    expected = draw(9)  # and into the next ones
    restore_pools([])
    draw(1)
    torch.set_rng_state(random)
    restore_pools(pools)
    assert all(map(torch.equal, draw(9), expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [100 * 100, 300 * 300])  # from the pool, and larger than half of it
def test_bits_drop_their_share(dtype, size):
    layer = Dropout(0.3).train()
    x = torch.randn(size, dtype=dtype)
    shares = []
    for _ in range(12):  # three pools
        bits = layer.bits(x.shape, dtype)
        y = (x.view(bits.dtype) & bits).view(dtype)
        assert torch.equal(y[y != 0], x[y != 0])
        shares.append(y.eq(0).float().mean().item())
    assert sum(shares) / 12 == pytest.approx(0.3, abs=0.01)  # five standard errors of three pools
    assert layer.eval().bits(x.shape, dtype) is None and Dropout(0.0).train().bits(x.shape, dtype) is None
