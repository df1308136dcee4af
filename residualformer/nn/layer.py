"""One pre-norm Transformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from residualformer.kernels.attention import AttentionMask, Table
from residualformer.kernels.dropout import Dropout
from residualformer.kernels.feed_forward import feed_forward
from residualformer.nn.attention import KeysValues, SelfAttention
from residualformer.nn.linear import DenseWeights, ResidualLinear


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)). LayerNorm and Dropout are never shared.

    Args:
        linears: modules q, k, v, out, up (D -> FFN), down (FFN -> D), which other layers may share.
    """

    def __init__(self, linears: dict[str, ResidualLinear], dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(linears, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.up, self.down = linears["up"], linears["down"]
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: AttentionMask, table: Table, weights: DenseWeights) -> Tensor:
        """Transform whole utterances (N, T', D) -> (N, T', D); the other arguments are `SelfAttention.forward`'s."""
        x = x + self.dropout(self.attention(self.norm1(x), mask, table, weights))
        return self._feed_forward(x, weights)

    def step(
        self, x: Tensor, num_queries: int, past: KeysValues, allowed: Tensor, table: Table
    ) -> tuple[Tensor, KeysValues]:
        """Transform a chunk x (N, T', D) -> (N, num_queries, D); all else is `SelfAttention.step`'s."""
        y, keys_values = self.attention.step(self.norm1(x), num_queries, past, allowed, table)
        return self._feed_forward(x[:, :num_queries] + self.dropout(y), DenseWeights()), keys_values

    def pass_by(self, x: Tensor, past: KeysValues) -> KeysValues:
        """Return the keys and values of past and a chunk x (N, T', D) that the layer does not transform."""
        return self.attention.keys_values(self.norm1(x), past)

    def flops(self, queries: int, size: int, held: int) -> float:
        """Return the multiply-accumulates of `step`: of `queries` frames, keys of `size` frames and `held` cached."""
        attention = self.attention
        of_all = sum(linear.flops() for linear in (attention.k, attention.v))
        of_queries = sum(linear.flops() for linear in (attention.q, attention.out, self.up, self.down))
        return size * of_all + queries * (of_queries + 2 * (held + size) * self.norm1.weight.numel())

    def _feed_forward(self, x: Tensor, weights: DenseWeights) -> Tensor:
        return x + self.dropout(feed_forward(self.norm2(x), self.up, self.down, self.dropout, weights))
