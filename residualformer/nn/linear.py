"""A projection whose weight is shared full rank + own low rank + own diagonal (ResidualTransformer, eqs. 2-3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        weight = self.shared.weight
        if self.A is not None:
            weight = weight + (self.A @ self.B).T
        if self.D is not None:
            rows, columns = weight.shape
            weight = weight + F.pad(torch.diag(self.D), (0, columns - len(self.D), 0, rows - len(self.D)))
        return weight.clone() if weight is self.shared.weight else weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., M) -> (..., N), through `dense()` or factor by factor, whichever costs less for this many rows."""
        shared = self.shared
        if self.A is None and self.D is None:
            return shared(x)
        m, n = shared.in_features, shared.out_features
        if x.numel() // m * (m + n) >= m * n:
            return F.linear(x, self.dense(), shared.bias)
        y = shared(x)
        if self.A is not None:
            y = y + (x @ self.A) @ self.B
        if self.D is not None:
            y = y + F.pad(x[..., : len(self.D)] * self.D, (0, n - len(self.D)))
        return y
