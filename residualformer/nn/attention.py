"""Multi-head self-attention with rotary relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residualformer.nn.linear import Affine, ResidualLinear, Stacks, dense_stack

KeysValues = tuple[Tensor, Tensor]  # each (N, H, J, D / H), not rotated
Table = tuple[Tensor, Tensor]  # cos and signed sin, each (J, D / H)


def rotary_table(length: int, head_dim: int, device: torch.device, base: float = 10000.0) -> Table:
    """cos and signed sin, for `rotate`, of the angles of the positions 0 ... length - 1, formed in float64."""
    frequency = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, device=device, dtype=torch.float64).unsqueeze(1) * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1).float(), torch.cat([-sin, sin], dim=-1).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2H) of x (N, H, J, D / H) by their positions' angles.

    A product of two vectors so turned depends on the difference of their positions only (Su et al., RoFormer), which
    makes the positions relative without a single parameter, as the paper's parameter counts ask for.
    """
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.size(-1) // 2, dims=-1), sin.to(x.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(D / H)) v under a bool mask, true where attending is allowed; shapes as in `rotate`."""
    if q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # The CPU kernel takes some three times as long with its backward (benchmarks/training_parts.py).
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(2, 3)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return weights.to(v.dtype) @ v


def additive(mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """A bool mask (N, 1, T', T'), true where attending is allowed, as numbers to add to scores: (N H, T', T')."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, float("-inf")).expand(-1, num_heads, -1, -1).flatten(0, 1)


class TrainedAttention(torch.autograd.Function):
    """`rotate` and `attend` from the projections (N, T', 3 D) of q, k and v on, with a backward pass of few operators.

    On a CPU that is several times as fast as to go through the operators' own. Nothing is kept but the factors of the
    products.

    Args:
        mask: (N H, T', T'), see `additive`.
        table: of T' positions.
        num_heads: H.

    Returns:
        (N, T', D).
    """

    @staticmethod
    def forward(ctx, projections: Tensor, mask: Tensor, table: Table, num_heads: int) -> Tensor:
        N, T, _ = projections.shape
        heads = projections.view(N, T, 3, num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()  # (3, N, H, T', D / H)
        ctx.cos, ctx.sin = (_for_q_and_k(part, heads.dtype) for part in table)
        with torch.autocast(heads.device.type, enabled=False):
            _rotate_(heads[:2], ctx.cos, ctx.sin)
            q, k, v = heads.flatten(1, 2)  # each (N H, T', D / H)
            weights = torch.baddbmm(mask, q, k.mT).softmax(-1)
            y = torch.bmm(weights, v)
        ctx.save_for_backward(heads, weights)
        return y.view(N, num_heads, T, -1).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        heads, weights = ctx.saved_tensors
        _, N, H, T, _ = heads.shape
        q, k, v = heads.flatten(1, 2)
        grad = grad.unflatten(2, (H, -1)).transpose(1, 2).flatten(0, 1)  # (N H, T', D / H)
        scores_grad = torch._softmax_backward_data(torch.bmm(grad, v.mT), weights, -1, weights.dtype)
        heads_grad = torch.empty_like(heads)
        for out, left, right in zip(heads_grad.flatten(1, 2), (scores_grad, scores_grad.mT, weights.mT), (k, q, grad)):
            torch.bmm(left, right, out=out)
        _rotate_(heads_grad[:2], ctx.cos, -ctx.sin)  # back
        return heads_grad.permute(1, 3, 0, 2, 4).flatten(2), None, None, None


def _for_q_and_k(part: Tensor, dtype: torch.dtype) -> Tensor:
    """cos or signed sin (T', D / H) for q, with the scale of the scores in it, and for k: (2, 1, 1, T', D / H)."""
    return torch.stack([part * part.size(-1) ** -0.5, part]).to(dtype)[:, None, None]


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """`rotate` in place."""
    other = x.roll(x.size(-1) // 2, dims=-1)
    x.mul_(cos).addcmul_(other, sin)


class SelfAttention(nn.Module):
    """Attention whose four projections D -> D (q, k, v, out) are given to it.

    Args:
        linears: the projections by name.
        num_heads: H, a divisor of D.
    """

    def __init__(self, linears: dict[str, ResidualLinear], num_heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (linears[name] for name in ("q", "k", "v", "out"))
        self.num_heads = num_heads

    def forward(
        self, x: Tensor, num_queries: int, past: KeysValues | None, mask: Tensor, table: Table
    ) -> tuple[Tensor, KeysValues]:
        """Attend from the first `num_queries` frames of x to the past and all of x.

        Args:
            x: (N, T', D).
            past: keys and values of the P frames before x; None for none.
            mask: (N or 1, 1, num_queries, P + T') bool, true where attending is allowed; no row may be all false.
            table: `rotary_table` of at least P + T' positions.

        Returns:
            (N, num_queries, D), and the keys and values of past and x, (N, H, P + T', D / H).
        """
        k, v = self._heads(self.k(x)), self._heads(self.v(x))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        cos, sin = (part[: k.size(2)] for part in table)
        first = k.size(2) - x.size(1)
        queries = slice(first, first + num_queries)
        q = rotate(self._heads(self.q(x[:, :num_queries])), cos[queries], sin[queries])
        y = attend(q, rotate(k, cos, sin), v, mask)
        return self.out(y.transpose(1, 2).flatten(2)), (k, v)

    def whole(self, x: Tensor, mask: Tensor, table: Table, known: Stacks) -> Tensor:
        """`forward` of whole utterances: all of x (N, T', D) are queries, nothing is past; gives (N, T', D) alone.

        The mask may be a bool one, as there, or, on a CPU and where gradients are needed, `additive`. `known`: see
        `dense_stack`.
        """
        weight, bias = dense_stack([self.q, self.k, self.v], x.device.type, known)
        if mask.dtype != torch.bool:
            projections = Affine.apply(x.to(weight.dtype), weight, bias)
            y = TrainedAttention.apply(projections, mask, table, self.num_heads)
            return Affine.apply(y, *dense_stack([self.out], x.device.type, known))
        projections = F.linear(x, weight, bias)
        q, k, v = (self._heads(part) for part in projections.chunk(3, dim=2))
        y = attend(rotate(q, *table), rotate(k, *table), v, mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, T', D) -> (N, H, T', D / H)
