"""One recurrent layer over all frames: PyTorch's own against the plain loop over its cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from residualformer.kernels import recurrent as module
from residualformer.kernels.recurrent import GATES, NUM_STATES, State, plain_recurrent_layer, recurrent_layer

KINDS = ("lstm", "gru")
Arguments = tuple[Tensor, State, Tensor, Tensor, Tensor]


def inputs(kind: str, frames: int = 7, dtype: torch.dtype = torch.float64) -> Arguments:
    """x (T, N, v), the state before it, input and recurrent weights and the bias, each wanting a gradient."""
    torch.manual_seed(2)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype).requires_grad_()

    width = GATES[kind] * 4
    state = tuple(leaf(3, 4) for _ in range(NUM_STATES[kind]))
    return leaf(frames, 3, 6), state, leaf(width, 6), leaf(width, 4), leaf(width)


def flat(arguments: Arguments) -> list[Tensor]:
    x, state, *weights = arguments
    return [x, *state, *weights]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_pytorchs_layer_with_the_second_bias_zero(kind):
    torch.manual_seed(0)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](6, 4)
    torch.nn.init.zeros_(layer.bias_hh_l0)
    x, state = torch.randn(7, 3, 6), tuple(torch.randn(3, 4) for _ in range(NUM_STATES[kind]))
    first = tuple(part.unsqueeze(0) for part in state)
    expected, last = layer(x, first if kind == "lstm" else first[0])
    y, new = recurrent_layer(kind, x, state, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0)
    # The same kernel on the same numbers.
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b[0]) for a, b in zip(new, last if kind == "lstm" else (last,), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_plain_loop_with_its_gradients(kind):
    arguments = inputs(kind)
    results = []
    for function in (plain_recurrent_layer, recurrent_layer):
        y, state = function(kind, *arguments)
        total = y.square().sum() + sum(part.sin().sum() for part in state)
        results.append([y, *state, *torch.autograd.grad(total, flat(arguments))])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # float64, sums in another order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 5])
@torch.no_grad()
def test_without_gradients_it_equals_the_plain_loop(kind, frames):
    arguments = inputs(kind, frames)
    (y, state), (expected, last) = recurrent_layer(kind, *arguments), plain_recurrent_layer(kind, *arguments)
    for found, wanted in zip((y, *state), (expected, *last), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)  # float64, sums in another order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 5])
@torch.no_grad()
def test_without_pytorchs_undocumented_functions_it_is_the_plain_loop(kind, frames, monkeypatch):
    arguments = inputs(kind, frames)
    expected = recurrent_layer(kind, *arguments)[0]
    monkeypatch.setitem(module._LAYERS, kind, None)
    monkeypatch.setitem(module._CELLS, kind, None)
    found = recurrent_layer(kind, *arguments)[0]
    assert torch.equal(found, plain_recurrent_layer(kind, *arguments)[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 5])
def test_where_pytorchs_layers_have_an_autocast_of_their_own_they_run_in_fp32(kind, frames, monkeypatch):
    """cuDNN's would be fp16, and refuse the bf16 products of factors beside an fp32 bias."""
    monkeypatch.setattr(module, "_has_own_autocast", torch.is_autocast_enabled)  # as of a GPU
    wide = inputs(kind, frames, torch.float32)
    x, state, w_input, w_recurrent, bias = wide
    half = x.bfloat16(), state, w_input.bfloat16(), w_recurrent.bfloat16(), bias
    rounded = half[0].float(), state, half[2].float(), half[3].float(), bias
    with torch.no_grad():
        expected = recurrent_layer(kind, *rounded)
        with torch.autocast("cpu", torch.bfloat16):
            y, new = recurrent_layer(kind, *half)
    for got, wanted in zip((y, *new), (expected[0], *expected[1]), strict=True):
        assert got.dtype == torch.float32 and torch.equal(got, wanted)
