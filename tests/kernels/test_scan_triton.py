"""The frames of branched LSTMs in Triton: run by Triton's interpreter against PyTorch in float64, and compiled."""

import logging

import pytest
import torch
from support.scan import inputs, plain
from support.triton_kernels import Build, compile_kernels, counted_launches, triton
from torch.utils._python_dispatch import TorchDispatchMode

from residualformer.errors import UserError
from residualformer.kernels import dispatch, scan
from residualformer.kernels.dispatch import recursion_engine

pytestmark = triton


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of which even small problems have several, the last of them not full. Returns those of a GPU."""
    from residualformer.kernels import scan_triton

    sizes = {name: getattr(scan_triton, name) for name in ("ROWS", "COLUMNS", "DEPTH")}
    for name in sizes:
        monkeypatch.setattr(scan_triton, name, 16)
    return sizes


def interpreted(gates, weight, decisions, *state):
    with recursion_engine("triton"):
        own, h, state = scan.scan("lstm", gates.clone(), weight, decisions, state)
    return own, h, *state


@pytest.mark.parametrize(
    "branches, streams, dim, used",  # outputs that nobody uses must not matter
    [(2, 17, 20, [0, 1, 2, 3]), (3, 3, 16, [0]), (2, 3, 16, [1]), (2, 3, 16, [-1])],
)
def test_states_and_gradients_are_plain_ones(branches, streams, dim, used):
    """Plain ones in float64. float32 sums of 80 products and three frames leave errors of a few 1e-7."""
    tensors = inputs("lstm", branches, frames=3, streams=streams, dim=dim)
    ours = [each.detach().float().requires_grad_() for each in tensors]
    expected, results = plain("lstm", *tensors), interpreted(*ours)
    weights = [torch.randn_like(result) for result in expected]
    losses = [sum((values[i] * weights[i].to(values[i])).sum() for i in used) for values in (results, expected)]
    gradients = [
        torch.autograd.grad(loss, given, materialize_grads=True) for loss, given in zip(losses, (ours, tensors))
    ]
    for got, wanted in zip((*results, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=2e-6, atol=2e-6)


def test_bf16_products_agree_with_fp32():
    """The interpreter cuts bf16 numbers off, where a GPU rounds: products are off by 2^-8."""
    tensors = inputs("lstm", frames=3, streams=4, dim=16, dtype=torch.float32)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            own, h, *last = interpreted(*tensors)
        assert {each.dtype for each in (own, h, *last)} == {torch.float32}
        gradients.append((h, *torch.autograd.grad(h.square().sum() + own.sum(), tensors)))
    assert not torch.equal(gradients[0][0], gradients[1][0])
    for full, half in zip(*gradients, strict=True):
        assert (full - half).norm() <= 0.02 * full.norm()


class Operators(TorchDispatchMode):
    """Counts the operators of PyTorch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_frame_is_one_kernel_forward_and_one_backward(monkeypatch):
    from residualformer.kernels import scan_triton

    counts = []
    for frames in (2, 4):
        tensors = inputs("lstm", frames=frames, streams=3, dim=8, dtype=torch.float32)
        with counted_launches(monkeypatch, scan_triton, run=False) as launched, Operators() as operators:
            own, h, *_ = interpreted(*tensors)
            assert launched == ["_forward_frame"] * frames
            torch.autograd.grad(own.sum() + h.sum(), tensors)
        assert launched[frames:] == ["_backward_frame"] * frames
        counts.append(operators.count)
    assert counts[0] == counts[1]  # nothing else is done once per frame


def test_it_refuses_float64_and_is_given_up_when_it_fails(monkeypatch, caplog):
    from residualformer.kernels import scan_triton

    with pytest.raises(UserError, match="the scan of branches in Triton takes float32, got float64"):
        interpreted(*inputs("lstm"))

    def broken(*_, **__):
        raise RuntimeError("out of resource: shared memory")

    gates, weight, decisions, *state = inputs("lstm", dtype=torch.float32)
    expected = plain("lstm", gates, weight, decisions, *state)
    monkeypatch.setattr(dispatch, "_failed", {"numba"})  # as on a GPU, which numba does not serve
    monkeypatch.setattr(dispatch, "triton_or_plain", lambda kernel, like: "triton")
    monkeypatch.setattr(scan_triton, "launch", broken)
    with caplog.at_level(logging.WARNING):
        own, h, _ = scan.scan("lstm", gates.clone(), weight, decisions, tuple(state))
        torch.autograd.grad(h.sum(), gates)
    torch.testing.assert_close((own, h), expected[:2], rtol=0, atol=1e-6)
    assert len(caplog.records) == 1 and "without triton, which failed" in caplog.text


def test_it_compiles_for_gpus(small_blocks):
    from residualformer.kernels import scan_triton

    floats = ["gates", "own", "tanh_c", "hs", "cs", "decisions", "own_grad", "dhs", "dcs", "grad"]
    blocks = {"BRANCHES": 2} | small_blocks
    builds = [
        Build(
            kernel,
            dict.fromkeys(floats, "*fp32") | {"weight": factor},
            blocks | ({"HAS_OWN": True} if kernel == "_backward_frame" else {}),
            scan_triton.OPTIONS,
            arch,
        )
        for arch, factor in ((80, "*fp32"), (80, "*bf16"), (90, "*bf16"))
        for kernel in ("_forward_frame", "_backward_frame")
    ]
    for used in compile_kernels("scan_triton", builds).values():
        assert used.registers <= 255 and used.stack == 0 and used.shared <= 96 * 1024
