"""One pre-norm Transformer layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residualformer.kernels.dropout import Dropout
from residualformer.nn.attention import KeysValues, SelfAttention, Table
from residualformer.nn.linear import ResidualLinear, Stacks, dense_stack, product


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
        return self._feed_forward(x[:, :num_queries] + self.dropout(y), {}), keys_values

    def whole(self, x: Tensor, mask: Tensor, table: Table, known: Stacks) -> Tensor:
        """`forward` of whole utterances, x (N, T', D) -> (N, T', D); see `SelfAttention.whole`."""
        return self._feed_forward(x + self.dropout(self.attention.whole(self.norm1(x), mask, table, known)), known)

    def _feed_forward(self, x: Tensor, known: Stacks) -> Tensor:
        y = self.norm2(x)
        if x.device.type != "cpu" or not x.requires_grad:
            return x + self.dropout(self.down(self.dropout(F.relu(self.up(y)))))
        (up, up_bias), (down, down_bias) = (dense_stack([linear], "cpu", known) for linear in (self.up, self.down))
        bits = self.dropout.bits(y.shape[:-1] + up.shape[:1], up.dtype)
        scale = 1.0 if bits is None else 1 / (1 - self.dropout.p)
        return x + self.dropout(TrainedFeedForward.apply(y.to(up.dtype), up, up_bias, down, down_bias, bits, scale))


class TrainedFeedForward(torch.autograd.Function):
    """down(dropout(relu(up(x)))) for training on a CPU, with as few passes over the FFN wide tensors as there can be.

    The scale of dropout is put into the weight of `down`, and backward has no need of the mask: what came through both
    relu and dropout is above 0.

    Args:
        x: (N, T, D).
        up, down: weights (FFN, D) and (D, FFN), each followed by its bias.
        bits: (N, T, FFN) from `Dropout.bits`.
        scale: 1 / (1 - p).
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, bits: Tensor | None, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            down = down * scale
            hidden = product(x, up, up_bias.to(x.dtype), relu=True)
            if bits is not None:
                hidden.view(bits.dtype).bitwise_and_(bits)
            y = product(hidden, down, down_bias.to(x.dtype))
        ctx.save_for_backward(x, up, down, hidden)
        ctx.scale, ctx.bias_type = scale, up_bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up, down, hidden = ctx.saved_tensors
        rows, hidden = grad.flatten(0, 1), hidden.flatten(0, 1)
        hidden_grad = rows @ down
        torch.ops.aten.threshold_backward.grad_input(hidden_grad, hidden, 0, grad_input=hidden_grad)
        up_grad, down_grad = hidden_grad.T @ x.flatten(0, 1), (rows.T @ hidden).mul_(ctx.scale)
        bias_grads = (each.sum(0).to(ctx.bias_type) for each in (hidden_grad, rows))
        x_grad = (hidden_grad @ up).view(x.shape)
        return x_grad, up_grad, next(bias_grads), down_grad, next(bias_grads), None, None
