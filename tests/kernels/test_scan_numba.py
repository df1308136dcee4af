"""The frames of branched LSTMs in numba against PyTorch's in float64, and who is asked."""

import logging

import pytest
import torch
from support.scan import inputs, plain

from residualformer.errors import UserError
from residualformer.kernels import dispatch, scan
from residualformer.kernels.dispatch import recursion_engine
from residualformer.optional import is_installed

pytestmark = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


def flat(engine, gates, weight, decisions, *state):
    with recursion_engine(engine):
        own, h, state = scan.scan("lstm", gates.clone(), weight, decisions, state)
    return own, h, *state


def loss(results, weights, used):
    return sum((results[i] * weights[i].to(results[i])).sum() for i in used)


@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("streams, dim", [(1, 4), (3, 16), (5, 19)])
def test_states_and_gradients_are_plain_ones(branches, streams, dim):
    """float32 sums of up to 228 products, functions off by 1.5e-7, seven frames: a few 1e-6 at most."""
    tensors = inputs("lstm", branches, frames=7, streams=streams, dim=dim)
    ours = [each.detach().float().requires_grad_() for each in tensors]
    expected, results = plain("lstm", *tensors), flat("numba", *ours)
    weights = [torch.randn_like(result) for result in expected]
    for used in ([0], [1], [2, 3], [0, 1, 2, 3]):  # outputs that nobody uses must not matter
        wanted, got = (
            torch.autograd.grad(loss(values, weights, used), given, retain_graph=True, materialize_grads=True)
            for values, given in ((expected, tensors), (results, ours))
        )
        for value, reference in zip((*results, *got), (*expected, *wanted), strict=True):
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), reference, rtol=5e-6, atol=5e-6)


def test_tensors_in_another_order_in_memory():
    """Decisions come from (N, T, B); the gradient of a sum is one number, expanded."""
    gradients = []
    for engine in ("numba", "plain"):
        ours = [each.detach().float().requires_grad_() for each in inputs("lstm")]
        gates, weight, decisions, *state = ours
        strided = decisions.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        results = flat(engine, gates, weight, strided, *state)
        gradients.append(torch.autograd.grad(sum(each.sum() for each in results), ours))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=5e-6, atol=5e-6)  # as above


def test_bf16_products_are_those_of_plain():
    """Both round h to bf16; a last digit of it that falls the other way changes a product by 2^-8 of one term."""
    tensors = inputs("lstm", frames=4, streams=3, dim=16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = (flat(engine, *tensors) for engine in ("numba", "plain"))
    exact = flat("plain", *tensors)
    for got, wanted, full in zip(ours, expected, exact, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-2)
        assert (got - full).abs().max() > 1e-5  # they are bf16 indeed


@pytest.mark.parametrize("engine, dtype, taken", [
    ("auto", torch.float32, "numba"),
    ("numba", torch.float32, "numba"),
    ("numba", torch.float64, "plain"),
    ("auto", torch.float64, "plain"),
    ("plain", torch.float32, "plain"),
])  # fmt: skip
@pytest.mark.parametrize("kernel", ["scan", "tiles"])
def test_who_is_asked(engine, dtype, taken, kernel):
    with recursion_engine(engine):
        assert dispatch.engine_for("it", kernel, torch.zeros(1, dtype=dtype)) == taken


def test_without_numba_it_is_plain(monkeypatch):
    monkeypatch.setattr(dispatch, "_is_there", lambda name: False)
    assert dispatch.engine_for("it", "scan", torch.zeros(1)) == "plain"


def test_numba_that_fails_to_compile_is_given_up_with_a_warning(monkeypatch, caplog):
    def fail(kernel, engine):
        raise ImportError("no LLVM here")

    monkeypatch.setattr(dispatch, "_failed", set())
    monkeypatch.setattr(dispatch, "load_kernels", fail)
    with caplog.at_level(logging.WARNING):
        assert dispatch.engine_for("it", "scan", torch.zeros(1)) == "plain"
    assert "no LLVM here" in caplog.text
    assert not dispatch.is_usable("numba")


def test_a_request_of_numba_that_is_missing_is_told(monkeypatch):
    def missing(package):
        raise UserError(f"{package} is not installed")

    dispatch.load_kernels.cache_clear()
    monkeypatch.setattr(dispatch, "optional", missing)
    with recursion_engine("numba"), pytest.raises(UserError, match="numba is not installed"):
        dispatch.engine_for("it", "scan", torch.zeros(1))
