"""A projection whose weight is shared full rank + own low rank + own diagonal (ResidualTransformer, eqs. 2-3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ResidualLinear(nn.Module):
    """y = (W + A·B + D)ᵀ x + b, with W (M x N) and b from a shared `nn.Linear`, and A, B, D of this layer's own.

    The shared module is used, never owned: it lives in the encoder's bank, so that each W is saved, moved and counted
    once. A starts random and B, D at zero, so that a fresh residual leaves the shared model as it is, bit for bit.

    Args:
        shared: the projection M -> N of this layer's group.
        rank: R of A (M x R) and B (R x N); 0 for neither.
        diagonal: whether D, the min(M, N) numbers of a rectangular diagonal, is there.

    Raises:
        ValueError: R is negative or above min(M, N).
    """

    def __init__(self, shared: nn.Linear, rank: int = 0, diagonal: bool = False) -> None:
        super().__init__()
        m, n = shared.in_features, shared.out_features
        if not 0 <= rank <= min(m, n):
            raise ValueError(f"residual rank {rank} is not within 0..{min(m, n)} for a {m} x {n} weight")
        self._shared = (shared,)  # a tuple hides the module from registration
        self.rank = rank
        self.A = nn.Parameter(torch.randn(m, rank) / math.sqrt(m)) if rank else None
        self.B = nn.Parameter(torch.zeros(rank, n)) if rank else None
        self.D = nn.Parameter(torch.zeros(min(m, n))) if diagonal else None

    @property
    def shared(self) -> nn.Linear:
        return self._shared[0]

    def dense(self) -> Tensor:
        """W + A·B + D as a new (N, M) matrix, PyTorch's orientation; the shared W is never written to."""
        return _Dense.apply(self.shared.weight.dtype, self.shared.weight, self.A, self.B, self.D)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., M) -> (..., N), through `dense()` or factor by factor, whichever costs less for this many rows."""
        shared = self.shared
        if self.A is None and self.D is None:
            return shared(x)
        m, n = shared.in_features, shared.out_features
        if x.numel() // m * (m + n) >= m * n:
            return F.linear(x, *dense_stack([self], x.device.type, {}))
        y = shared(x)
        if self.A is not None:
            y = y + (x @ self.A) @ self.B
        if self.D is not None:
            y = y + F.pad(x[..., : len(self.D)] * self.D, (0, n - len(self.D)))
        return y


Stacks = dict[tuple[int, ...], tuple[Tensor, Tensor]]  # what `dense_stack` has given, by the shared modules


def dense_stack(linears: Sequence[ResidualLinear], device_type: str, known: Stacks) -> tuple[Tensor, Tensor]:
    """Weights (sum of N, M) and biases (sum of N,) of projections of the same input, for one product instead of many.

    The weights are in the type that autocast, if it is on for `device_type`, would give them. Those without a residual
    are kept in `known`, which is to be as old as the weights and no older: layers that share them share the work.
    """
    key = tuple(id(linear.shared) for linear in linears)
    plain = all(linear.A is None and linear.D is None for linear in linears)
    if plain and key in known:
        return known[key]
    dtype = linears[0].shared.weight.dtype
    if torch.is_autocast_enabled(device_type) and dtype != torch.float64:  # as autocast has it
        dtype = torch.get_autocast_dtype(device_type)
    parts = [part for linear in linears for part in (linear.shared.weight, linear.A, linear.B, linear.D)]
    biases = [linear.shared.bias for linear in linears]
    stack = _Dense.apply(dtype, *parts), biases[0] if len(biases) == 1 else torch.cat(biases)
    if plain:
        known[key] = stack
    return stack


def product(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """x weightᵀ + bias (, relu of it), of one type, without a graph; bf16 on a CPU: in one pass over the result."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    y = F.linear(x, weight, bias)
    return y.relu_() if relu else y


class Affine(torch.autograd.Function):
    """`product` of x (N, T, M), weight (K, M) and bias (K,), the last perhaps of a wider type: (N, T, K)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_type = bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            return product(x, weight, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, 1)
        return (rows @ weight).view(x.shape), rows.T @ x.flatten(0, 1), rows.sum(0).to(ctx.bias_type)


class _Dense(torch.autograd.Function):
    """W + (A·B + D)ᵀ of some projections, one below the other, rounded to `dtype` once.

    Arguments: dtype, then W (N, M), A (M, R), B (R, N) and D (min(M, N),) of each; A and B, and D, may be None.
    """

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *parts: Tensor | None) -> Tensor:
        ctx.save_for_backward(*parts)
        weights = parts[::4]
        stack = weights[0].new_empty(sum(map(len, weights)), weights[0].size(1), dtype=dtype)
        rows = stack.split([len(weight) for weight in weights])
        with torch.autocast(stack.device.type, enabled=False):
            for own, W, A, B, D in zip(rows, *(parts[i::4] for i in range(4)), strict=True):
                weight = W if A is None else torch.addmm(W, B.T, A.T)
                if D is not None:
                    weight = weight.clone() if weight is W else weight
                    weight.diagonal().add_(D)
                own.copy_(weight)
        return stack

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        grads: list[Tensor | None] = []
        for own, W, A, B, D in zip(grad.split([len(W) for W in parts[::4]]), *(parts[i::4] for i in range(4))):
            own = own.to(W.dtype)
            grads += [own, None if A is None else own.T @ B.T, None if A is None else (own @ A).T]
            grads += [None if D is None else own.diagonal().clone()]
        return None, *grads
