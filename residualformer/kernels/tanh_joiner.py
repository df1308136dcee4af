"""Log-probabilities of a tanh joiner at some nodes of the lattice, tile by tile, without its logits.

A few hundred nodes at a time are taken through tanh, output layer and softmax. Forward keeps two log-probabilities of a
node and backward computes the logits again: a third more products, for a memory that grows with the vocabulary by one
tile and the gradient of the output layer only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import limit_for_device
from residualformer.kernels.precision import bf16_products, no_autocast
from residualformer.kernels.tiles import fastest_tiles
from residualformer.kernels.tiles_plain import Nodes

TILE = {"cpu": 256, "cuda": 4096}  # nodes per tile: on a CPU few enough for a core's cache; a GPU wants more at once


def node_log_probs(am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, nodes: Nodes, bf16: bool) -> Tensor:
    """Return the log-probabilities (M, 2) of two classes at M nodes, of softmax(tanh(am[t] + lm[s]) weight^T + bias).

    Args:
        am: (rows, D), lm: (rows, D), both sides of the joiner; weight: (C, D), bias: (C,), its output layer.
        bf16: see `precision.bf16_products`.
    """
    return _NodeLogProbs.apply(am, lm, weight, bias, *nodes, bf16)


class _NodeLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, t: Tensor, s: Tensor, classes: Tensor, bf16: bool
    ) -> Tensor:
        ctx.save_for_backward(am, lm, weight, bias, t, s, classes)
        ctx.bf16, ctx.tiles = bf16, fastest_tiles(am)  # chosen here: backward may run in another thread
        log_probs = am.new_empty(len(t), 2)
        tiles = ctx.tiles(am, lm, weight, bias)
        with bf16_products(am.device.type, bf16):
            for rows in tiles.split(len(t), limit_for_device(TILE, am)):
                tiles.write_log_probs((t[rows], s[rows], classes[rows]), log_probs[rows])
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        am, lm, weight, bias, t, s, classes = ctx.saved_tensors
        size = grad.abs().amax(1)
        rounding = torch.finfo(grad.dtype).eps / 2  # less than this part of the largest does not show in sums
        kept = (size > rounding * size.max()).nonzero()[:, 0] if len(size) else t
        grad, t, s, classes = grad[kept], t[kept], s[kept], classes[kept]
        grads = [torch.zeros_like(each) for each in (am, lm, weight, bias)]
        tiles = ctx.tiles(am, lm, weight, bias)
        with no_autocast(am), bf16_products(am.device.type, ctx.bf16):
            for rows in tiles.split(len(t), limit_for_device(TILE, am)):
                tiles.add_grads((t[rows], s[rows], classes[rows]), grad[rows], grads)
        return *grads, None, None, None, None
