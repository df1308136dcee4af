"""Linear products y = x weightᵀ + bias, and the dense weights W + A·B + D of ResidualTransformer (eqs. 2-3).

Letters: a projection takes M numbers to N; R is the rank of its residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels import operators
from residualformer.kernels.precision import no_autocast


class WeightParts(NamedTuple):
    """A shared weight and the residual that one layer adds to it."""

    W: Tensor  # (N, M), PyTorch's orientation: the transpose of the paper's
    A: Tensor | None  # (M, R)
    B: Tensor | None  # (R, N)
    D: Tensor | None  # (min(M, N),), a rectangular diagonal


def trains_on_cpu(x: Tensor) -> bool:
    """Return whether x is on a CPU and needs a gradient, as the fast paths of this package require."""
    return x.device.type == "cpu" and x.requires_grad


def dense_weight(projections: Sequence[WeightParts], dtype: torch.dtype) -> Tensor:
    """Return W + (A·B + D)ᵀ of projections of the same input, one below the other, as a new tensor.

    Args:
        projections: parts of (N_i, M) weights.
        dtype: what the sums are rounded to, once.

    Returns:
        (sum of N_i, M).
    """
    parts = list(chain(*projections))
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts):
        return _DenseWeight.apply(dtype, *parts)
    return plain_dense_weight(projections, dtype)


def plain_dense_weight(projections: Sequence[WeightParts], dtype: torch.dtype) -> Tensor:
    """Compute `dense_weight` by PyTorch's operators."""
    weights = []
    with no_autocast(projections[0].W):
        for W, A, B, D in projections:
            weight = W
            if A is not None and B is not None:
                weight = torch.addmm(weight, B.T, A.T)
            if D is not None:
                n, m = W.shape
                weight = weight + F.pad(D.diag(), (0, m - len(D), 0, n - len(D)))
            weights.append(weight)
        return torch.cat(weights).to(dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x weightᵀ + bias, with gradients in fewer passes than PyTorch's where a model trains on a CPU.

    Args:
        x: (N, T, M).
        weight: (K, M), in the type of the product.
        bias: (K,), in that or a wider type.

    Returns:
        (N, T, K).
    """
    if trains_on_cpu(x):
        return _Linear.apply(x.to(weight.dtype), weight, bias)
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """`linear`, x and weight being of one type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = bias.dtype
        with no_autocast(x):
            return operators.linear(x, weight, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, 1)
        _, of_weight, of_bias = ctx.needs_input_grad  # not where they are frozen
        weight_grad = rows.T @ x.flatten(0, 1) if of_weight else None
        return (rows @ weight).view(x.shape), weight_grad, rows.sum(0).to(ctx.bias_dtype) if of_bias else None


class _DenseWeight(torch.autograd.Function):
    """`dense_weight` of a flat list of parts: W, A, B and D of each projection."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor | None) -> Tensor:
        ctx.save_for_backward(*parts)
        projections = _grouped(parts)
        heights = [len(each.W) for each in projections]
        stack = projections[0].W.new_empty(sum(heights), projections[0].W.size(1), dtype=dtype)
        with no_autocast(stack):
            for rows, (W, A, B, D) in zip(stack.split(heights), projections, strict=True):
                weight = W if A is None or B is None else torch.addmm(W, B.T, A.T)
                if D is not None:
                    weight = weight.clone() if weight is W else weight
                    weight.diagonal().add_(D)
                rows.copy_(weight)
        return stack

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projections = _grouped(ctx.saved_tensors)
        grads: list[Tensor | None] = [None]  # of dtype
        for rows, (W, A, B, D) in zip(grad.split([len(each.W) for each in projections]), projections, strict=True):
            rows = rows.to(W.dtype)
            grads.append(rows)
            if A is None or B is None:
                grads += [None, None]
            else:
                grads += [rows.T @ B.T, (rows @ A).T]
            grads.append(None if D is None else rows.diagonal().clone())
        return tuple(grads)


def _grouped(parts: Sequence[Any]) -> list[WeightParts]:
    """Return the parts of each projection from a flat list of them."""
    return [WeightParts(*parts[start : start + 4]) for start in range(0, len(parts), 4)]
