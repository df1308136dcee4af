"""The reference of the tiles: some nodes of a tanh joiner's lattice at a time, to log-probabilities and gradients.

Plain PyTorch, for any device and floating-point type; in `tiles_numba.py` all but the matrix products is faster on a
CPU. Letters: D joint dimension, C classes, m nodes of a tile.
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
    """

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.am, self.lm, self.weight, self.bias = am, lm, weight, bias
        self.joint, self.other, self.logits = (am.new_empty(0) for _ in range(3))

    def split(self, M: int, most: int) -> list[slice]:
        """Split M nodes into tiles of nearly equal size, at most `most` each, and make room for one."""
        count = -(-M // most)
        size = -(-M // count) if count else 0
        self.joint, self.other = (self.am.new_empty(size, self.am.shape[1]) for _ in range(2))
        self.logits = self.am.new_empty(size, len(self.weight))
        return [slice(i * size, min((i + 1) * size, M)) for i in range(count)]

    def write_log_probs(self, nodes: Nodes, log_probs: Tensor) -> None:
        """Write the log-probabilities of the two classes of each node into log_probs (m, 2)."""
        t, s, classes = nodes
        logits = self._forwards(t, s)[1]
        log_probs.copy_(logits.log_softmax(1).gather(1, classes))

    def add_grads(self, nodes: Nodes, grad: Tensor, grads: Sequence[Tensor]) -> None:
        """Propagate `grad` (m, 2) of the log-probabilities, adding to `grads`: those of am, lm, weight and bias."""
        t, s, classes = nodes
        am_grad, lm_grad, weight_grad, bias_grad = grads
        joint, logits = self._forwards(t, s)
        logits = torch.softmax(logits, 1)
        logits.mul_(-grad.sum(1, keepdim=True)).scatter_add_(1, classes, grad)
        weight_grad.addmm_(logits.t(), joint)
        bias_grad += logits.sum(0)
        joint_grad = logits @ self.weight
        joint_grad.addcmul_(joint_grad, joint.square_(), value=-1)  # times tanh' = 1 - tanh^2
        am_grad.index_add_(0, t, joint_grad)
        lm_grad.index_add_(0, s, joint_grad)

    def _forwards(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint vectors (m, D), after tanh, and the logits (m, C); the next call overwrites both."""
        joint = torch.index_select(self.am, 0, t, out=self.joint[: len(t)])
        joint.add_(torch.index_select(self.lm, 0, s, out=self.other[: len(t)])).tanh_()
        return joint, torch.addmm(self.bias, joint, self.weight.t(), out=self.logits[: len(t)])
