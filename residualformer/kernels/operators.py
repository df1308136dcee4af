"""Private operators of PyTorch that make the fast paths fast, each with a public substitute.

They may be missing in another version of PyTorch, so no other file calls them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def find(path: str) -> Callable[..., Any] | None:
    """Return the operator `torch.<path>`, None if this version of PyTorch does not have it."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


_LINEAR_POINTWISE = find("ops.mkldnn._linear_pointwise")
_SUPPORTS_BF16 = find("ops.mkldnn._is_mkldnn_bf16_supported")
_SOFTMAX_BACKWARD = find("_softmax_backward_data")
_THRESHOLD_BACKWARD = find("ops.aten.threshold_backward.grad_input")
_SIGMOID_BACKWARD = find("ops.aten.sigmoid_backward.grad_input")
_TANH_BACKWARD = find("ops.aten.tanh_backward.grad_input")


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """Return x weightᵀ + bias, or the ReLU of it, of one type and without a graph.

    For bf16 numbers on a CPU oneDNN adds the bias and takes the ReLU before it rounds, in one pass over the result.
    """
    if _LINEAR_POINTWISE and x.device.type == "cpu" and x.dtype == torch.bfloat16 and _onednn_takes_bf16():
        return _LINEAR_POINTWISE(x, weight, bias, "relu" if relu else "none", [], "")
    y = F.linear(x, weight, bias)
    return y.relu_() if relu else y


def softmax_backward(grad: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of x, where y = softmax(x, -1) and `grad` is y's gradient."""
    if _SOFTMAX_BACKWARD:
        return _SOFTMAX_BACKWARD(grad, y, -1, y.dtype)
    return y * (grad - (grad * y).sum(-1, keepdim=True))


def relu_backward_(grad: Tensor, y: Tensor) -> Tensor:
    """Set `grad` to zero, in place, where y = relu(x) is zero."""
    if _THRESHOLD_BACKWARD:
        return _THRESHOLD_BACKWARD(grad, y, 0, grad_input=grad)
    return grad.masked_fill_(y <= 0, 0)


def sigmoid_backward(grad: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of x into `out`, where y = sigmoid(x) and `grad` is y's gradient."""
    if _SIGMOID_BACKWARD:
        return _SIGMOID_BACKWARD(grad, y, grad_input=out)
    return out.copy_(grad * (1 - y) * y)


def tanh_backward(grad: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of x into `out`, where y = tanh(x) and `grad` is y's gradient."""
    if _TANH_BACKWARD:
        return _TANH_BACKWARD(grad, y, grad_input=out)
    return out.copy_(grad * (1 - y * y))


@functools.cache
def _onednn_takes_bf16() -> bool:
    """Return whether oneDNN computes bf16 products on this processor, by the arguments that `linear` gives it."""
    if not (_LINEAR_POINTWISE and _SUPPORTS_BF16 and _SUPPORTS_BF16()):
        return False
    ones = torch.ones(1, 1, dtype=torch.bfloat16)
    try:
        return bool(_LINEAR_POINTWISE(ones, ones, ones[0], "relu", [], "") == 2)
    except (RuntimeError, TypeError):  # this version takes other arguments
        return False
