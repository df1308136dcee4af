"""Multi-head self-attention with rotary relative positions."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.kernels.attention import AttentionMask, Table, merge_heads, rotate, self_attention, split_heads
from residualformer.kernels.linear import linear
from residualformer.nn.linear import DenseWeights, ResidualLinear

KeysValues = tuple[Tensor, Tensor]  # each (N, H, J, D / H), not rotated


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotary_table(length: int, head_dim: int, device: torch.device, base: float = 10000.0) -> Table:
    """Return cosines and signed sines, for `rotate`, of the angles of the positions 0 ... length - 1.

    The angles are formed in float64. Calls with the same arguments return the same tensors: do not change them.

    Returns:
        Two float32 tensors (length, head_dim).
    """
    frequency = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, device=device, dtype=torch.float64).unsqueeze(1) * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1).float(), torch.cat([-sin, sin], dim=-1).float()


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

    def forward(self, x: Tensor, mask: AttentionMask, table: Table, weights: DenseWeights) -> Tensor:
        """Attend within whole utterances.

        Args:
            x: (N, T', D).
            table: `rotary_table` of T' positions.
            weights: those of this pass through the encoder.

        Returns:
            (N, T', D).
        """
        qkv = linear(x, *weights(self.q, self.k, self.v))
        return self.out(self_attention(qkv, mask, table, self.num_heads), weights)

    def step(
        self, x: Tensor, num_queries: int, past: KeysValues, allowed: Tensor, table: Table
    ) -> tuple[Tensor, KeysValues]:
        """Attend from the first `num_queries` frames of x to the past and all of x.

        Args:
            x: (N, T', D).
            past: keys and values of the P frames before x.
            allowed: (N or 1, 1, num_queries, P + T') bool, True where attending is allowed; no row may be all False.
            table: `rotary_table` of at least P + T' positions.

        Returns:
            (N, num_queries, D), and the keys and values of past and x, (N, H, P + T', D / H).
        """
        k, v = self.keys_values(x, past)
        cos, sin = (part[: k.size(2)] for part in table)
        first = k.size(2) - x.size(1)
        queries = slice(first, first + num_queries)
        q = rotate(split_heads(self.q(x[:, :num_queries]), self.num_heads), cos[queries], sin[queries])
        y = F.scaled_dot_product_attention(q, rotate(k, cos, sin), v, attn_mask=allowed)
        return self.out(merge_heads(y)), (k, v)

    def keys_values(self, x: Tensor, past: KeysValues) -> KeysValues:
        """Return the keys and values of past and x (N, T', D), each (N, H, P + T', D / H)."""
        k, v = (split_heads(project(x), self.num_heads) for project in (self.k, self.v))
        return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
