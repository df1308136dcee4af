"""Logits of a vocabulary too large to be kept for a whole batch: some classes, or some rows, at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import limit_for_device
from residualformer.kernels.precision import bf16_products, no_autocast

# Elements of a block of logits: many, since each product reads the rows or the weights again. On a CPU, elementwise
# operations take a block in chunks that stay in a core's cache.
BLOCK = {"cpu": 2**20, "cuda": 2**24}
CHUNK = 2**18


@dataclass
class Projection:
    """Logits x W^T + b of rows x (M, D) for some of C classes, and the sums of their gradients.

    Exponentials, (M, n), are those of logits - maximum, with a maximum (M,).
    """

    x: Tensor
    weight: Tensor  # (C, D)
    bias: Tensor | None  # (C,)
    x_grad: Tensor | None = None  # shaped as x, None where not needed; likewise the next two
    weight_grad: Tensor | None = None
    bias_grad: Tensor | None = None
    bf16: bool = field(default=False, kw_only=True)  # see `precision.bf16_products`

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The inputs, the weight and the bias."""
        return self.x, self.weight, self.bias

    def logits(self, rows: slice, classes: slice | Tensor) -> Tensor:
        """Return logits (m, n); classes are a slice or indices (n,), in which a class may occur more than once."""
        with bf16_products(self.x.device.type, self.bf16):
            logits = self.x[rows] @ self.weight[classes].t()
        return logits if self.bias is None else logits.add_(self.bias[classes])

    def add_grads(self, grad: Tensor, rows: slice, classes: slice | Tensor) -> None:
        """Propagate the gradient (m, n) of `logits(rows, classes)`."""
        x = self.x[rows]
        with bf16_products(grad.device.type, self.bf16):
            if self.x_grad is not None:
                self.x_grad[rows].addmm_(grad, self.weight[classes])
            if self.weight_grad is not None:
                if isinstance(classes, Tensor):
                    self.weight_grad.index_add_(0, classes, grad.t() @ x)
                else:
                    self.weight_grad[classes].addmm_(grad.t(), x)
        if self.bias_grad is not None:
            if isinstance(classes, Tensor):
                self.bias_grad.index_add_(0, classes, grad.sum(0))
            else:
                self.bias_grad[classes] += grad.sum(0)

    def running_exp(self, classes: slice, maximum: Tensor, out: Tensor) -> Tensor:
        """Write the exponentials of some classes to `out`, raising the maximum where a logit exceeds it.

        Returns:
            (M,), the factor that turns earlier sums of exponentials into sums under the new maximum.
        """
        before = maximum.clone()
        for chunk, chunk_max in self._biased_chunks(classes, out, maximum):
            torch.maximum(chunk_max, chunk.amax(1), out=chunk_max)
            chunk.sub_(chunk_max[:, None]).exp_()
        return before.sub_(maximum).exp_()

    def exp(self, classes: slice, maximum: Tensor, out: Tensor) -> None:
        """Write the exponentials of some classes to `out`."""
        for chunk, chunk_max in self._biased_chunks(classes, out, maximum):
            chunk.sub_(chunk_max[:, None]).exp_()

    def add_grads_of_exp(self, grad: Tensor, exp: Tensor, classes: slice) -> None:
        """Propagate the gradient (M, n) of exponentials under a constant maximum; `grad` is overwritten."""
        for chunk, exp_chunk in _chunks(grad, exp):
            chunk.mul_(exp_chunk)
        self.add_grads(grad, slice(None), classes)

    def _biased_chunks(self, classes: slice, out: Tensor, maximum: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Write logits to `out` and yield them in chunks, each with its part of the maximum."""
        with bf16_products(out.device.type, self.bf16):
            torch.mm(self.x, self.weight[classes].t(), out=out)
        for chunk, chunk_max in _chunks(out, maximum):
            if self.bias is not None:
                chunk.add_(self.bias[classes])  # faster than within addmm
            yield chunk, chunk_max


def _chunks(block: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the rows of both, some at a time."""
    size = max(1, CHUNK // block.shape[1]) if block.device.type == "cpu" else len(block)
    return zip(block.split(size), other.split(size))


def blocks(like: Tensor, C: int, *rows: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield blocks of C classes, each with a buffer (n, classes of the block) for each n in `rows`."""
    size = min(C, max(64, limit_for_device(BLOCK, like) // max(rows) // 64 * 64))
    buffers = [like.new_empty(n * size) for n in rows]
    for start in range(0, C, size):
        width = min(size, C - start)
        yield slice(start, start + width), [buffer[: n * width].view(n, width) for n, buffer in zip(rows, buffers)]


def grads_where_needed(ctx: Any, *inputs: Tensor | None) -> list[Tensor | None]:
    """Return zeros for the gradients of the first inputs of an autograd function, None where none is needed."""
    return [
        torch.zeros_like(each) if each is not None and needed else None
        for each, needed in zip(inputs, ctx.needs_input_grad)
    ]


def mean_softmax(projection: Projection) -> Tensor:
    """Return the mean of softmax(x W^T + b) over the rows of x (..., D): (C,), never 0, so that its log is finite."""
    x, weight, bias = projection.tensors
    return _MeanSoftmax.apply(x.flatten(0, -2), weight, bias, projection.bf16)


class _MeanSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, bf16: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.bf16 = bf16
        mean = x.new_zeros(len(weight))
        for _, probs in _softmax_blocks(Projection(x, weight, bias, bf16=bf16)):
            mean += probs.sum(0)
        return mean.div_(len(x)).add_(torch.finfo(mean.dtype).tiny)

    @staticmethod
    @once_differentiable
    def backward(ctx, mean_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        grads = grads_where_needed(ctx, x, weight, bias)
        projection, mean_grad = Projection(x, weight, bias, *grads, bf16=ctx.bf16), mean_grad / len(x)
        with no_autocast(x):
            for rows, probs in _softmax_blocks(projection):
                projection.add_grads(probs.mul_(mean_grad - (probs @ mean_grad)[:, None]), rows, slice(None))
        return *grads, None


def _softmax_blocks(projection: Projection) -> Iterator[tuple[slice, Tensor]]:
    """Yield the softmax over all classes, some rows at a time."""
    size = max(1, limit_for_device(BLOCK, projection.x) // len(projection.weight))
    for start in range(0, len(projection.x), size):
        rows = slice(start, start + size)
        yield rows, projection.logits(rows, slice(None)).softmax(1)
