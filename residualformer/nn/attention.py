"""Multi-head self-attention with rotary relative positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.nn.linear import ResidualLinear

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

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, T', D) -> (N, H, T', D / H)
