"""Weights of recurrent branches (AmNets, section 3): plain, sparse, factorised.

A weight here is a w x v matrix of one layer, y = W x, with all gates stacked in w, for every branch (slow first). Each
kind gives: `dense(n)`: the matrix of branch n, (w, v), for training; `dense_all()`: (B, w, v); `product(x, n)`: W x the
cheap way of this kind, for run time; `flops(n)`: multiply-accumulates of one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.schema import AmNetConfig
from residualformer.kernels.sparse import best_product

FEW_VECTORS = 8  # a sparse product with more is not faster than the dense one


def rank_for(w: int, v: int, compression: float) -> int:
    """The rank at which two factors of a w x v matrix hold at most (1 - compression) w v numbers; at least 1."""
    return max(1, math.floor((1 - compression) * w * v / (w + v)))


class PlainWeight(nn.Module):
    """One dense matrix W (w, v); there is one branch. Starts uniform within `bound`."""

    def __init__(self, w: int, v: int, bound: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(w, v).uniform_(-bound, bound))

    def dense(self, branch: int = 0) -> Tensor:
        return self.W

    def dense_all(self) -> Tensor:
        return self.dense().unsqueeze(0)

    def product(self, x: Tensor, branch: int = 0) -> Tensor:
        """x (N, v) -> (N, w)."""
        return F.linear(x, self.dense())

    def flops(self, branch: int = 0) -> float:
        return float(self.W.numel())


class SparseWeight(PlainWeight):
    """W times a mask of zeros and ones (w, v), for one branch; `block` as in `amnet.block`.

    A masked weight keeps its value and gets no gradient, so that a later mask may bring it back.
    """

    def __init__(self, w: int, v: int, bound: float, block: int = 1) -> None:
        super().__init__(w, v, bound)
        self.block = block
        self.register_buffer("mask", torch.ones(w, v, dtype=torch.bool))
        self._packed: tuple[tuple, Callable[[Tensor], Tensor]] | None = None

    def dense(self, branch: int = 0) -> Tensor:
        return self.W * self.mask

    def train(self, mode: bool = True) -> SparseWeight:
        self._packed = None
        return super().train(mode)

    def product(self, x: Tensor, branch: int = 0) -> Tensor:
        """x (N, v) -> (N, w). A few x, no gradients: by a sparse kernel, packed at the first product after a change."""
        if torch.is_grad_enabled() or len(x) > FEW_VECTORS or x.dtype != torch.float32:
            return super().product(x)
        now = tuple((tensor.data_ptr(), _version(tensor)) for tensor in (self.W, self.mask))
        if self._packed is None or self._packed[0] != now:
            self._packed = now, best_product(self.dense(), self.block)
        return self._packed[1](x)

    def flops(self, branch: int = 0) -> float:
        return float(self.mask.count_nonzero())


class BranchWeights(nn.ModuleList):
    """A `SparseWeight` of its own for every branch."""

    def dense(self, branch: int) -> Tensor:
        return self[branch].dense()

    def dense_all(self) -> Tensor:
        return torch.stack([weight.dense() for weight in self])

    def product(self, x: Tensor, branch: int) -> Tensor:
        return self[branch].product(x)

    def flops(self, branch: int) -> float:
        return self[branch].flops()


class FactorisedWeight(nn.Module):
    """P1 (w, r) times P2 (v, r) transposed; branch n takes the first r_n columns of both (eq. 4), r is the largest.

    All branches share the factors, which are counted and saved once. They start random, with products that vary as a
    plain weight within `bound` does. In memory column follows column, so that a branch reads one contiguous piece.

    Raises:
        ValueError: a rank is below 1 or above min(w, v).
    """

    def __init__(self, w: int, v: int, ranks: list[int], bound: float) -> None:
        super().__init__()
        if not all(1 <= rank <= min(w, v) for rank in ranks):
            raise ValueError(f"ranks {ranks} are not within 1..{min(w, v)} for a {w} x {v} weight")
        self.ranks = list(ranks)
        r = max(ranks)
        spread = (bound**2 / 3 / r) ** 0.25
        self.P1 = nn.Parameter((torch.randn(r, w) * spread).T)
        self.P2 = nn.Parameter((torch.randn(r, v) * spread).T)

    def dense(self, branch: int) -> Tensor:
        rank = self.ranks[branch]
        return self.P1[:, :rank] @ self.P2[:, :rank].T

    def dense_all(self) -> Tensor:
        """(B, w, v), at the cost of the largest rank alone: a higher rank only adds columns to a lower one."""
        total, done, matrices = None, 0, {}
        for rank in sorted(set(self.ranks)):
            more = self.P1[:, done:rank] @ self.P2[:, done:rank].T
            total = matrices[rank] = more if total is None else total + more
            done = rank
        return torch.stack([matrices[rank] for rank in self.ranks])

    def product(self, x: Tensor, branch: int) -> Tensor:
        """x (N, v) -> (N, w), as two thin products."""
        rank = self.ranks[branch]
        return (x @ self.P2[:, :rank]) @ self.P1[:, :rank].T

    def flops(self, branch: int) -> float:
        return float(self.ranks[branch] * (len(self.P1) + len(self.P2)))

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}"


def _version(tensor: Tensor) -> int:
    """Grows with every change in place; tensors made in inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


Weight = PlainWeight | BranchWeights | FactorisedWeight


def make_weight(amnet: AmNetConfig, w: int, v: int, bound: float) -> Weight:
    """The weight that `amnet.method` and `amnet.compression` ask for."""
    if amnet.method == "sparse":
        return BranchWeights(SparseWeight(w, v, bound, amnet.block) for _ in amnet.compression)
    if amnet.method == "factorised":
        return FactorisedWeight(w, v, [rank_for(w, v, c) for c in amnet.compression], bound)
    return PlainWeight(w, v, bound)
