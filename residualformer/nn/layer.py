"""One pre-norm Transformer layer."""

from __future__ import annotations

from torch import Tensor, nn

from residualformer.nn.attention import KeysValues, SelfAttention, Table
from residualformer.nn.dropout import Dropout
from residualformer.nn.linear import ResidualLinear


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)). LayerNorm and Dropout are the layer's own, always.

    Args:
        linears: modules q, k, v, out, up (D -> FFN), down (FFN -> D); shared or not is not this layer's business.
    """

    def __init__(self, linears: dict[str, ResidualLinear], dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(linears, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.up, self.down = linears["up"], linears["down"]
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, num_queries: int, past: KeysValues | None, mask: Tensor, table: Table
    ) -> tuple[Tensor, KeysValues]:
        """x (N, T', D) -> (N, num_queries, D); the other arguments and the second result are `SelfAttention`'s."""
        y, keys_values = self.attention(self.norm1(x), num_queries, past, mask, table)
        return self._feed_forward(x[:, :num_queries] + self.dropout(y)), keys_values

    def whole(self, x: Tensor, mask: Tensor, table: Table) -> Tensor:
        """`forward` of whole utterances, x (N, T', D) -> (N, T', D); see `SelfAttention.whole`."""
        return self._feed_forward(x + self.dropout(self.attention.whole(self.norm1(x), mask, table)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(self.dropout.of_relu(self.up(self.norm2(x)))))
