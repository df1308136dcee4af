"""A projection whose weight is shared full rank + own low rank + own diagonal (ResidualTransformer, eqs. 2-3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.kernels.linear import WeightParts, dense_weight, linear, trains_on_cpu

RESIDUAL_PARTS = ("A", "B", "D")  # names of a layer's own parameters, for counts, warm starts and learning rates


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

    @property
    def has_residual(self) -> bool:
        return self.A is not None or self.D is not None

    @property
    def parts(self) -> WeightParts:
        return WeightParts(self.shared.weight, self.A, self.B, self.D)

    def flops(self) -> float:
        """Return the multiply-accumulates of one row, factor by factor; D, element-wise, is not counted."""
        factors = 0 if self.A is None or self.B is None else self.A.numel() + self.B.numel()
        return float(self.shared.weight.numel() + factors)

    def dense(self) -> Tensor:
        """Return W + A·B + D as a new (N, M) matrix, PyTorch's orientation; the shared W is never written to."""
        return dense_weight([self.parts], self.shared.weight.dtype)

    def forward(self, x: Tensor, weights: DenseWeights | None = None) -> Tensor:
        """Project x (..., M) -> (..., N), by the dense weight or factor by factor, whichever costs less for its rows.

        Args:
            weights: those of this pass over whole utterances, x (N, T', M), which trains by dense weights in any case.
        """
        if weights is not None and trains_on_cpu(x):
            return linear(x, *weights(self))
        shared = self.shared
        if not self.has_residual:
            return shared(x)
        m, n = shared.in_features, shared.out_features
        if x.numel() // m * (m + n) >= m * n:
            return F.linear(x, *DenseWeights()(self))
        y = shared(x)
        if self.A is not None and self.B is not None:
            y = y + (x @ self.A) @ self.B
        if self.D is not None:
            y = y + F.pad(x[..., : len(self.D)] * self.D, (0, n - len(self.D)))
        return y


class DenseWeights:
    """The dense weights of one pass through the layers, made once for all layers that share them.

    An object is for one pass only: it does not notice when the weights change.
    """

    def __init__(self) -> None:
        self._shared: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, *linears: ResidualLinear) -> tuple[Tensor, Tensor]:
        """Return the weights (sum of N, M) and the biases (sum of N,) of projections of the same input, stacked.

        The weights are of the type that autocast, where it is on, gives to products.
        """
        key = tuple(id(each.shared) for each in linears)
        has_residual = any(each.has_residual for each in linears)
        if not has_residual and key in self._shared:
            return self._shared[key]
        weight = linears[0].shared.weight
        device, dtype = weight.device.type, weight.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # as autocast has it
            dtype = torch.get_autocast_dtype(device)
        biases: list[Tensor] = [each.shared.bias for each in linears]
        bias = biases[0] if len(biases) == 1 else torch.cat(biases)
        stack = dense_weight([each.parts for each in linears], dtype), bias
        if not has_residual:
            self._shared[key] = stack
        return stack
