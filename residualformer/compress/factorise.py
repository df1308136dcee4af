"""Low-rank factors of trained weights (AmNets, section 3): W = U S Vᵀ, P1 = U sqrt(S), P2 = V sqrt(S).

Columns are ordered by singular value, so that the first r of them are the best approximation of rank r
(Eckart and Young, 1936) for every r: branches are truncations of the same factors (eq. 4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.errors import UserError


def factorise(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors P1 (w, rank) and P2 (v, rank) of a matrix (w, v), in its dtype; exact when rank = min(w, v).

    Raises UserError if the rank is below 1 or above min(w, v).
    """
    _check_rank(rank, min(weight.shape), tuple(weight.shape))
    # In fp64: the small singular values of an fp32 decomposition are off by 1e-7 of the largest one.
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(weight.dtype), (vt[:rank].T * root).to(weight.dtype)


def refactorise(p1: Tensor, p2: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return `factorise(P1 P2ᵀ, rank)` of factors (w, r) and (v, r) without forming the product.

    Training mixes the columns of factors; this orders them by singular value again. Raises UserError if the rank is
    below 1 or above min(r, w, v).
    """
    _check_rank(rank, min(*p1.shape, len(p2)), (len(p1), len(p2)))
    q1, r1 = torch.linalg.qr(p1.double())
    q2, r2 = torch.linalg.qr(p2.double())
    c1, c2 = factorise(r1 @ r2.T, rank)
    return (q1 @ c1).to(p1.dtype), (q2 @ c2).to(p2.dtype)


def _check_rank(rank: int, largest: int, shape: tuple[int, ...]) -> None:
    if not 1 <= rank <= largest:
        raise UserError(
            f"a {shape[0]} x {shape[1]} matrix was to have factors of rank {rank}; allowed: 1 to {largest}; "
            f"choose a higher compression"
        )
