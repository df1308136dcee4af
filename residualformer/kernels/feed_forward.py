"""The feed-forward part of a Transformer layer: down(dropout(relu(up(x))))."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels import operators
from residualformer.kernels.dropout import Dropout
from residualformer.kernels.linear import trains_on_cpu
from residualformer.kernels.precision import no_autocast

Projection = TypeVar("Projection", bound=Callable[[Tensor], Tensor])


def feed_forward(
    x: Tensor, up: Projection, down: Projection, dropout: Dropout, dense: Callable[[Projection], tuple[Tensor, Tensor]]
) -> Tensor:
    """Return down(dropout(relu(up(x)))) of x (N, T, D), in a single function where a model trains on a CPU.

    Args:
        up: D -> FFN.
        down: FFN -> D.
        dense: gives the dense weight (out, in) and the bias (out,) of a projection.
    """
    if not trains_on_cpu(x):
        return plain_feed_forward(x, up, down, dropout)
    (up_weight, up_bias), (down_weight, down_bias) = dense(up), dense(down)
    bits = dropout.bits(x.shape[:-1] + up_weight.shape[:1], up_weight.dtype)
    scale = 1.0 if bits is None else 1 / (1 - dropout.p)
    return _FeedForward.apply(bits, scale, x.to(up_weight.dtype), up_weight, up_bias, down_weight, down_bias)


def plain_feed_forward(x: Tensor, up: Projection, down: Projection, dropout: Dropout) -> Tensor:
    """Compute `feed_forward` module by module."""
    return down(dropout(F.relu(up(x))))


class _FeedForward(torch.autograd.Function):
    """`feed_forward` with as few passes over the (N, T, FFN) tensors as there can be.

    The scale of dropout is put into the weight of `down`, and backward needs no mask: what came through both ReLU and
    dropout is above 0.

    Args:
        bits: (N, T, FFN) from `Dropout.bits`; None: nothing is dropped.
        scale: 1 / (1 - p).
        x: (N, T, D).
        weights: up (FFN, D) and down (D, FFN), each followed by its bias.
    """

    @staticmethod
    def forward(ctx: Any, bits: Tensor | None, scale: float, x: Tensor, *weights: Tensor) -> Tensor:
        up, up_bias, down, down_bias = weights
        with no_autocast(x):
            down = down * scale
            hidden = operators.linear(x, up, up_bias.to(x.dtype), relu=True)
            if bits is not None:
                hidden.view(bits.dtype).bitwise_and_(bits)
            y = operators.linear(hidden, down, down_bias.to(x.dtype))
        ctx.save_for_backward(x, up, down, hidden)
        ctx.scale, ctx.bias_dtype = scale, up_bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up, down, hidden = ctx.saved_tensors
        rows, hidden = grad.flatten(0, 1), hidden.flatten(0, 1)
        hidden_grad = operators.relu_backward_(rows @ down, hidden)
        of_up, _, of_down, _ = ctx.needs_input_grad[3:]  # not where they are frozen
        up_grad = hidden_grad.T @ x.flatten(0, 1) if of_up else None
        down_grad = (rows.T @ hidden).mul_(ctx.scale) if of_down else None
        up_bias_grad, down_bias_grad = (each.sum(0).to(ctx.bias_dtype) for each in (hidden_grad, rows))
        x_grad = (hidden_grad @ up).view(x.shape)
        return None, None, x_grad, up_grad, up_bias_grad, down_grad, down_bias_grad
