"""Multi-head self-attention over whole utterances, with rotary positions.

Letters: N utterances, T' frames, D numbers in a frame, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels import operators
from residualformer.kernels.linear import trains_on_cpu
from residualformer.kernels.precision import no_autocast

Table = tuple[Tensor, Tensor]  # cosines and signed sines of the angles of T' positions, each (T', D / H)


class AttentionMask:
    """A mask of attention, in the two forms that its implementations take; layers share one object.

    Args:
        allowed: (N, 1, T', T') bool; rows are queries, columns keys; no row may be all False.
    """

    def __init__(self, allowed: Tensor) -> None:
        self.allowed = allowed
        self._scores: dict[tuple[int, torch.dtype], Tensor] = {}

    def scores(self, num_heads: int, dtype: torch.dtype) -> Tensor:
        """Return what masks by addition to the scores, 0 or minus infinity: (N H, T', T')."""
        key = num_heads, dtype
        if key not in self._scores:
            zeros = torch.zeros(self.allowed.shape, dtype=dtype, device=self.allowed.device)
            masked = zeros.masked_fill_(~self.allowed, float("-inf"))
            self._scores[key] = masked.expand(-1, num_heads, -1, -1).flatten(0, 1)
        return self._scores[key]


def self_attention(qkv: Tensor, mask: AttentionMask, table: Table, num_heads: int) -> Tensor:
    """Return softmax(q kᵀ / sqrt(D / H)) v of every head, with q and k rotated by the angles of their positions.

    Args:
        qkv: (N, T', 3 D), the projections q, k and v side by side.

    Returns:
        (N, T', D).
    """
    if trains_on_cpu(qkv):
        return _SelfAttention.apply(qkv, mask.scores(num_heads, qkv.dtype), table, num_heads)
    return plain_self_attention(qkv, mask, table, num_heads)


def plain_self_attention(qkv: Tensor, mask: AttentionMask, table: Table, num_heads: int) -> Tensor:
    """Compute `self_attention` by PyTorch's operators."""
    q, k, v = (split_heads(part, num_heads) for part in qkv.chunk(3, dim=2))
    y = F.scaled_dot_product_attention(rotate(q, *table), rotate(k, *table), v, attn_mask=mask.allowed)
    return merge_heads(y)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2H) of x (N, H, T', D / H) by the angles of their positions.

    A product of two vectors so turned depends on the difference of their positions only (Su et al., RoFormer), which
    makes positions relative without a single parameter, as the paper's parameter counts ask for.
    """
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.size(-1) // 2, dims=-1), sin.to(x.dtype))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split frames (N, T', D) into heads (N, H, T', D / H)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Merge heads (N, H, T', D / H) into frames (N, T', D)."""
    return x.transpose(1, 2).flatten(2)


class _SelfAttention(torch.autograd.Function):
    """`self_attention` with a backward pass of few operators; only the factors of the products are kept for it.

    On a CPU that is several times as fast as `scaled_dot_product_attention` (benchmarks/training_parts.py).

    Args:
        mask: (N H, T', T') from `AttentionMask.scores`.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, mask: Tensor, table: Table, num_heads: int) -> Tensor:
        N, T, _ = qkv.shape
        heads = qkv.view(N, T, 3, num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()  # (3, N, H, T', D / H)
        ctx.cos, ctx.sin = (_for_q_and_k(part, heads.dtype) for part in table)
        with no_autocast(heads):
            _rotate_(heads[:2], ctx.cos, ctx.sin)
            q, k, v = heads.flatten(1, 2)  # each (N H, T', D / H)
            weights = torch.baddbmm(mask, q, k.mT).softmax(-1)
            y = torch.bmm(weights, v)
        ctx.save_for_backward(heads, weights)
        return merge_heads(y.view(N, num_heads, T, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        heads, weights = ctx.saved_tensors
        q, k, v = heads.flatten(1, 2)
        grad = split_heads(grad, heads.size(2)).flatten(0, 1)  # (N H, T', D / H)
        scores_grad = operators.softmax_backward(torch.bmm(grad, v.mT), weights)
        heads_grad = torch.empty_like(heads)
        q_grad, k_grad, v_grad = heads_grad.flatten(1, 2)
        torch.bmm(scores_grad, k, out=q_grad)
        torch.bmm(scores_grad.mT, q, out=k_grad)
        torch.bmm(weights.mT, grad, out=v_grad)
        _rotate_(heads_grad[:2], ctx.cos, -ctx.sin)  # back
        return heads_grad.permute(1, 3, 0, 2, 4).flatten(2), None, None, None


def _for_q_and_k(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Return cosines or sines (T', D / H) for q, with the scale of the scores, and for k: (2, 1, 1, T', D / H)."""
    return torch.stack([part * part.size(-1) ** -0.5, part]).to(dtype)[:, None, None]


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """`rotate` in place."""
    other = x.roll(x.size(-1) // 2, dims=-1)
    x.mul_(cos).addcmul_(other, sin)
