"""Weights of recurrent branches (AmNets, section 3): plain, sparse, factorized.

A weight here is a w x v matrix of one layer, y = W x, with all gates stacked in w, for every branch (slow first). Every
kind has the same methods: `dense(n)` returns the matrix of branch n, (w, v), for training, `dense_all()` those of all
branches, (B, w, v); `product(x, n)` computes W x the cheap way of this kind, for run time; `flops(n)` returns the
multiply-accumulates of one product.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.amnet import AmNetConfig
from residualformer.kernels.sparse import MaskedProduct
from residualformer.nn.typed import ModuleList


def rank_for(w: int, v: int, compression: float) -> int:
    """Return the rank at which two factors of a w x v matrix hold at most (1 - compression) w v numbers; at least 1."""
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
        """Return W x (N, w) of x (N, v)."""
        return F.linear(x, self.dense())

    def flops(self, branch: int = 0) -> float:
        return float(self.W.numel())


class SparseWeight(PlainWeight):
    """W times a mask of zeros and ones (w, v), for one branch; `block` as in `amnet.block`.

    A masked weight keeps its value and gets no gradient, so that a later mask may bring it back.
    """

    mask: Tensor

    def __init__(self, w: int, v: int, bound: float, block: int = 1) -> None:
        super().__init__(w, v, bound)
        self.register_buffer("mask", torch.ones(w, v, dtype=torch.bool))
        self._masked_product = MaskedProduct(block)
        self._kept = (0, 0), 0.0  # which mask was counted, in which version of its values, and the result

    def dense(self, branch: int = 0) -> Tensor:
        return self.W * self.mask

    def train(self, mode: bool = True) -> SparseWeight:
        self._masked_product.forget()
        return super().train(mode)

    def product(self, x: Tensor, branch: int = 0) -> Tensor:
        """Return W x (N, w) of x (N, v), by a sparse kernel where that is faster."""
        return self._masked_product(x, self.W, self.mask)

    def flops(self, branch: int = 0) -> float:
        counted = id(self.mask), self.mask._version  # to count at every update would be to wait for a GPU
        if counted != self._kept[0]:
            self._kept = counted, float(self.mask.count_nonzero())
        return self._kept[1]


class BranchWeights(ModuleList[SparseWeight]):
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
        """Return (B, w, v), at the cost of the largest rank alone: a higher rank only adds columns to a lower one."""
        total, done, matrices = None, 0, {}
        for rank in sorted(set(self.ranks)):
            more = self.P1[:, done:rank] @ self.P2[:, done:rank].T
            total = matrices[rank] = more if total is None else total + more
            done = rank
        return torch.stack([matrices[rank] for rank in self.ranks])

    def product(self, x: Tensor, branch: int) -> Tensor:
        """Return W x (N, w) of x (N, v), by two thin products."""
        rank = self.ranks[branch]
        return (x @ self.P2[:, :rank]) @ self.P1[:, :rank].T

    def flops(self, branch: int) -> float:
        return float(self.ranks[branch] * (len(self.P1) + len(self.P2)))

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}"


Weight = PlainWeight | BranchWeights | FactorisedWeight


def make_weight(amnet: AmNetConfig, w: int, v: int, bound: float) -> Weight:
    """Return the weight that `amnet.method` and `amnet.compression` ask for."""
    if amnet.method == "sparse":
        return BranchWeights(SparseWeight(w, v, bound, amnet.block) for _ in amnet.compression)
    if amnet.method == "factorised":
        return FactorisedWeight(w, v, [rank_for(w, v, c) for c in amnet.compression], bound)
    return PlainWeight(w, v, bound)
