"""PyTorch's private operators against the public ones that replace them where they are missing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from residualformer.config.schema import EncoderConfig, ResidualConfig
from residualformer.kernels import operators
from residualformer.nn.transformer import TransformerEncoder

PRIVATE = [name for name in vars(operators) if name.startswith("_") and name.isupper()]


@pytest.fixture(params=[True, False], ids=["private", "public"])
def private(request, monkeypatch) -> bool:
    """Whether the private operators are there."""
    if not request.param:
        remove(monkeypatch, *PRIVATE)
    return request.param


def remove(monkeypatch, *names: str) -> None:
    operators._onednn_takes_bf16.cache_clear()
    for name in names:
        monkeypatch.setattr(operators, name, None)


@pytest.fixture(autouse=True)
def forget():
    """What was found out of an operator that a test took away."""
    yield
    operators._onednn_takes_bf16.cache_clear()


def gradient_of(function, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad((function(x) * grad).sum(), x)[0]


def leaves() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.randn(5, 7, dtype=torch.float64)


def test_what_this_pytorch_does_not_have_is_not_found():
    assert len(PRIVATE) == 6
    assert operators.find("no_such_operator") is None and operators.find("ops.mkldnn.no_such.operator") is None


def test_softmax_backward(private):
    x, grad = leaves()
    expected = gradient_of(lambda x: x.softmax(-1), x, grad)
    torch.testing.assert_close(operators.softmax_backward(grad, x.softmax(-1)), expected, rtol=0, atol=1e-15)


def test_relu_backward(private):
    x, grad = leaves()
    expected, before = gradient_of(F.relu, x, grad), grad.data_ptr()
    found = operators.relu_backward_(grad, x.detach().relu())
    assert torch.equal(found, expected) and found.data_ptr() == before


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_backward_of_gates(name, private):
    x, grad = leaves()
    function = getattr(torch, name)
    out = torch.empty(5, 14, dtype=torch.float64)[:, 7:]  # a part of a row, as gates are
    expected = gradient_of(function, x, grad)
    getattr(operators, f"{name}_backward")(grad, function(x.detach()), out)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-15)  # some roundings of numbers below 1


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2**-7), (torch.float32, 1e-6)])
def test_linear(relu, dtype, tolerance, private):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((2, 5, 4), (6, 4), (6,)))
    exact = F.linear(x.double(), weight.double(), bias.double())
    found = operators.linear(x, weight, bias, relu)
    assert found.dtype == dtype
    # bf16 keeps 8 bits of sums of a few numbers around 1
    torch.testing.assert_close(found.double(), exact.relu() if relu else exact, rtol=tolerance, atol=2 * tolerance)


def test_an_operator_with_other_arguments_is_left_alone(monkeypatch):
    def other(x, weight, bias):
        raise AssertionError("not reached: the arguments do not fit")

    remove(monkeypatch)
    monkeypatch.setattr(operators, "_LINEAR_POINTWISE", other)
    monkeypatch.setattr(operators, "_SUPPORTS_BF16", lambda: True)
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    assert operators.linear(x, x, x[0, :1]).item() == 3


@pytest.mark.parametrize("name", [*PRIVATE, "all"])
def test_a_model_trains_without_it(name, monkeypatch):
    """Gradients as with it: within the rounding of fp32, and of bf16 where that is the type of the products."""
    config = EncoderConfig(
        num_layers=2, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=2, residual=ResidualConfig(3, True)
    )
    torch.manual_seed(0)
    encoder = TransformerEncoder(config, 20).eval()
    features, lengths = torch.randn(2, 61, 20), torch.tensor([61, 40])

    def gradients() -> list[torch.Tensor]:
        results = []
        for bf16 in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                frames, _ = encoder(features, lengths)
            results += torch.autograd.grad(frames.float().sin().sum(), list(encoder.parameters()))
        return results

    expected = gradients()
    remove(monkeypatch, *(PRIVATE if name == "all" else [name]))
    half = len(expected) // 2
    for index, (found, wanted) in enumerate(zip(gradients(), expected, strict=True)):
        assert (found - wanted).norm() <= (1e-5 if index < half else 0.05) * wanted.norm() + 1e-6
