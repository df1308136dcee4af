"""The reference of the tiles: some nodes of a tanh joiner's lattice at a time, to log-probabilities and gradients.

Plain PyTorch, for any device and floating-point type. In `tiles_numba.py` all but the matrix products is faster on a
CPU; `tiles_triton.py` is for GPUs. Letters: D joint dimension, C classes, m nodes of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# t (m,) and s (m,), the rows of am and lm that meet in each node, and two classes of each, (m, 2); all int64.
Nodes = tuple[Tensor, Tensor, Tensor]


class Tiles:
    """Tiles of nodes with logits tanh(am[t] + lm[s]) weight^T + bias, in buffers that all tiles use.

    Args:
        am: (rows, D), lm: (rows, D), weight: (C, D), bias: (C,).
        bf16: whether factors of products may be rounded; here `precision.bf16_products` around all calls does it.
    """

    ENGINE = "plain"
    FORWARD = 1  # forward takes so many times the nodes of a tile of backward

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, bf16: bool = False) -> None:
        self.am, self.lm, self.weight, self.bias, self.bf16 = am, lm, weight, bias, bf16
        self.joint, self.other, self.logits = (am.new_empty(0) for _ in range(3))

    def split(self, M: int, most: int) -> list[slice]:
        """Split M nodes into tiles of nearly equal size, at most `most` each, and make room for one."""
        count = -(-M // most)
        size = -(-M // count) if count else 0
        self.make_room(size)
        return [slice(i * size, min((i + 1) * size, M)) for i in range(count)]

    def make_room(self, size: int) -> None:
        """Make buffers for a tile of `size` nodes."""
        self.joint, self.other = (self.am.new_empty(size, self.am.shape[1]) for _ in range(2))
        self.logits = self.am.new_empty(size, len(self.weight))

    def write_log_probs(self, nodes: Nodes, log_probs: Tensor, norms: Tensor) -> None:
        """Write the log-probabilities of the two classes of each node, (m, 2), and its log-normalizer, (m,)."""
        t, s, classes = nodes
        logits = self._forwards(t, s)[1]
        torch.logsumexp(logits, 1, out=norms)
        norms.masked_fill_(norms == torch.inf, torch.nan)  # else all other classes had a probability, of 0
        torch.sub(logits.gather(1, classes), norms[:, None], out=log_probs)

    def add_grads(self, nodes: Nodes, norms: Tensor, grad: Tensor, grads: Sequence[Tensor]) -> None:
        """Propagate `grad` (m, 2) of the log-probabilities, adding to `grads`: those of am, lm, weight and bias.

        `norms` are those that `write_log_probs` has written for these nodes.
        """
        t, s, classes = nodes
        joint, logits = self._forwards(t, s)
        logits.sub_(norms[:, None]).exp_().mul_(-grad.sum(1, keepdim=True)).scatter_add_(1, classes, grad)
        self._add_grads_of_logits(nodes, joint, logits, logits, grads)

    def _add_grads_of_logits(
        self, nodes: Nodes, joint: Tensor, logits: Tensor, sums: Tensor, grads: Sequence[Tensor]
    ) -> None:
        """Propagate the gradients `logits` (m, C), whose sum over nodes is also that of `sums`; `joint` is lost."""
        am_grad, lm_grad, weight_grad, bias_grad = grads
        weight_grad.addmm_(logits.t(), joint)
        bias_grad += sums.sum(0)
        joint_grad = logits @ self.weight
        joint_grad.addcmul_(joint_grad, joint.square_(), value=-1)  # times tanh' = 1 - tanh^2
        am_grad.index_add_(0, nodes[0], joint_grad)
        lm_grad.index_add_(0, nodes[1], joint_grad)

    def _forwards(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint vectors (m, D), after tanh, and the logits (m, C); the next call overwrites both."""
        joint = torch.index_select(self.am, 0, t, out=self.joint[: len(t)])
        joint.add_(torch.index_select(self.lm, 0, s, out=self.other[: len(t)])).tanh_()
        return joint, torch.addmm(self.bias, joint, self.weight.t(), out=self.logits[: len(t)])
