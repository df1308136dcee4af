"""Logits of a vocabulary too large to be held for a whole batch: some classes, or some rows, at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from residualformer.loss.precision import products

# Of a block of logits: what stays in a core's cache is faster to go over, a GPU wants more at once.
ELEMENTS = {"cpu": 2**19, "cuda": 2**24}


def _elements(x: Tensor) -> int:
    return ELEMENTS.get(x.device.type, ELEMENTS["cuda"])


@dataclass
class Projection:
    """Logits x W^T + b of rows x (M, D) for some of C classes, and gradients, summed over all that is added to them.

    weight: (C, D); bias: (C,) or None; bf16: see `precision.products`. Each gradient has the shape of its tensor, and is
    None where it is not needed. Classes are a slice, or an index (n,) in which a class may recur.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    bf16: bool
    x_grad: Tensor | None = None
    weight_grad: Tensor | None = None
    bias_grad: Tensor | None = None

    def logits(self, classes: slice | Tensor, rows: slice = slice(None), out: Tensor | None = None) -> Tensor:
        x, weight = self.x[rows], self.weight[classes]
        with products(x.device.type, self.bf16):
            logits = torch.mm(x, weight.t(), out=out)
        return logits if self.bias is None else logits.add_(self.bias[classes])  # faster than within addmm

    def add_grads(self, grad: Tensor, classes: slice | Tensor, rows: slice = slice(None)) -> None:
        """Add what `grad` (m, n), the gradient of `logits(classes, rows)`, gives."""
        with products(grad.device.type, self.bf16):
            if self.x_grad is not None:
                self.x_grad[rows].addmm_(grad, self.weight[classes])
            if self.weight_grad is not None and isinstance(classes, slice):
                self.weight_grad[classes].addmm_(grad.t(), self.x[rows])
            elif self.weight_grad is not None:
                self.weight_grad.index_add_(0, classes, grad.t() @ self.x[rows])
        if self.bias_grad is not None and isinstance(classes, slice):
            self.bias_grad[classes] += grad.sum(0)
        elif self.bias_grad is not None:
            self.bias_grad.index_add_(0, classes, grad.sum(0))


class Blocks:
    """Buffers for blocks of logits, (rows, classes), and the blocks' classes."""

    def __init__(self, like: Tensor, C: int, *rows: int) -> None:
        self.size, self.C = min(C, max(64, _elements(like) // max(rows) // 64 * 64)), C
        self.rows, self.buffers = rows, [like.new_empty(n * self.size) for n in rows]

    def __iter__(self) -> Iterator[tuple[slice, list[Tensor]]]:
        for start in range(0, self.C, self.size):
            width = min(self.size, self.C - start)
            views = [buffer[: n * width].view(n, width) for n, buffer in zip(self.rows, self.buffers)]
            yield slice(start, start + width), views


def running_exp(logits: Tensor, maximum: Tensor) -> Tensor:
    """logits (M, n) -> exp(logits - maximum) in place, maximum (M,) raised to theirs; what sums so far scale by, (M,)."""
    higher = torch.maximum(maximum, logits.amax(1))
    scale = (maximum - higher).exp_()
    maximum.copy_(higher)
    logits.sub_(higher[:, None]).exp_()
    return scale


def softmax_blocks(projection: Projection) -> Iterator[tuple[slice, Tensor]]:
    """softmax of the logits of all classes, some rows at a time."""
    size = max(1, _elements(projection.x) // len(projection.weight))
    for start in range(0, len(projection.x), size):
        rows = slice(start, start + size)
        yield rows, projection.logits(slice(None), rows).softmax(1)
