"""Log-probabilities of a tanh joiner at some nodes of the lattice, tile by tile, without its logits.

A few hundred nodes at a time, on a GPU a few thousand, are taken through tanh, output layer and softmax. Forward keeps
two log-probabilities and the log-normalizer of a node, and backward computes the logits again: a third more products,
for a memory that grows with the vocabulary by one tile and the gradient of the output layer only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import limit_for_device, requested_engine
from residualformer.kernels.precision import bf16_products, no_autocast
from residualformer.kernels.tiles import fastest_tiles, run_tiles
from residualformer.kernels.tiles_plain import Nodes, Tiles

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
        log_probs, norms = am.new_empty(len(t), 2), am.new_empty(len(t))

        def compute(kind: type[Tiles]) -> None:
            tiles = kind(am, lm, weight, bias, bf16)
            with bf16_products(am.device.type, bf16):
                for rows in tiles.split(len(t), limit_for_device(TILE, am) * kind.FORWARD):
                    tiles.write_log_probs((t[rows], s[rows], classes[rows]), log_probs[rows], norms[rows])

        # Chosen here: backward may run in another thread, which knows no `recursion_engine`.
        ctx.bf16, ctx.fall_back = bf16, requested_engine() == "auto"
        ctx.tiles = run_tiles(fastest_tiles(am), compute, ctx.fall_back)
        ctx.save_for_backward(am, lm, weight, bias, t, s, classes, norms)
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        am, lm, weight, bias, t, s, classes, norms = ctx.saved_tensors
        size = grad.abs().amax(1)
        rounding = torch.finfo(grad.dtype).eps / 2  # less than this part of the largest does not show in sums
        kept = (size > rounding * size.max()).nonzero()[:, 0] if len(size) else t
        grad, t, s, classes, norms = grad[kept], t[kept], s[kept], classes[kept], norms[kept]
        grads: list[Tensor] = []

        def compute(kind: type[Tiles]) -> None:
            grads[:] = [torch.zeros_like(each) for each in (am, lm, weight, bias)]
            tiles = kind(am, lm, weight, bias, ctx.bf16)
            with no_autocast(am), bf16_products(am.device.type, ctx.bf16):
                for rows in tiles.split(len(t), limit_for_device(TILE, am)):
                    tiles.add_grads((t[rows], s[rows], classes[rows]), norms[rows], grad[rows], grads)

        run_tiles(ctx.tiles, compute, ctx.fall_back)
        return *grads, None, None, None, None
