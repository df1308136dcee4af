"""A few nodes of the lattice at a time: from both sides of a tanh joiner to log-probabilities, and back to gradients.

D is the joint dimension, C the classes, m the nodes of a tile. In PyTorch, for all devices and types; `tiles_numba.py`
does what is not a product of matrices faster on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Tiles:
    """Tiles of nodes whose logits are tanh(am[t] + lm[s]) weight^T + bias, in buffers that are used again.

    am: (rows, D), lm: (rows, D), weight: (C, D), bias: (C,). Of a node, t and s, (m,), are rows of am and lm.
    """

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.am, self.lm, self.weight, self.bias = am, lm, weight, bias
        self.joint, self.other, self.logits = (am.new_empty(0) for _ in range(3))

    def of(self, M: int, most: int) -> list[slice]:
        """M rows in tiles of nearly equal size, of at most `most` rows."""
        count = -(-M // most)
        size = -(-M // count) if count else 0
        self.joint, self.other = (self.am.new_empty(size, self.am.shape[1]) for _ in range(2))
        self.logits = self.am.new_empty(size, len(self.weight))
        return [slice(i * size, min((i + 1) * size, M)) for i in range(count)]

    def write_arcs(self, t: Tensor, s: Tensor, classes: Tensor, arcs: Tensor) -> None:
        """Log-probabilities of two classes of each node, (m, 2), into arcs (m, 2)."""
        logits = self._forwards(t, s)[1]
        arcs.copy_(logits.log_softmax(1).gather(1, classes))

    def add_grads(
        self, t: Tensor, s: Tensor, classes: Tensor, grad: Tensor,
        am_grad: Tensor, lm_grad: Tensor, weight_grad: Tensor, bias_grad: Tensor,
    ) -> None:  # fmt: skip
        """Add what the gradient (m, 2) of the log-probabilities gives to the gradients of am, lm, weight and bias."""
        joint, logits = self._forwards(t, s)
        logits = torch.softmax(logits, 1)
        logits.mul_(-grad.sum(1, keepdim=True)).scatter_add_(1, classes, grad)
        weight_grad.addmm_(logits.t(), joint)
        bias_grad += logits.sum(0)
        joint_grad = logits @ self.weight
        joint_grad.addcmul_(joint_grad, joint.square_(), value=-1)  # (1 - tanh^2) of it
        am_grad.index_add_(0, t, joint_grad)
        lm_grad.index_add_(0, s, joint_grad)

    def _forwards(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The joint vectors (m, D), after tanh, and the logits (m, C); both are overwritten by the next call."""
        joint = torch.index_select(self.am, 0, t, out=self.joint[: len(t)])
        joint.add_(torch.index_select(self.lm, 0, s, out=self.other[: len(t)])).tanh_()
        return joint, torch.addmm(self.bias, joint, self.weight.t(), out=self.logits[: len(t)])
