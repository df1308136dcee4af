"""Transducer losses from the two projections of a tanh joiner on, without the logits: time and memory of a few tiles.

The nodes (frame t, label position s) of the lattice that count are taken a few hundred at a time. Forward keeps two
log-probabilities of a node, backward computes its logits again: a third more products for a memory that grows with the
vocabulary only by one tile and the gradient of the output layer.

Letters and conventions as in `rnnt.py`; D is the joint dimension, M the number of nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from residualformer.kernels.precision import products, wanted
from residualformer.kernels.tiles import Tiles
from residualformer.loss.common import check_arguments, finish_arcs, full_precision, loss_of_arcs, of_device
from residualformer.loss.recursion import checked_boundary, compiled

TILE = {"cpu": 256, "cuda": 4096}  # nodes in a tile: few enough for a core's cache, a GPU wants more at once


def pruned_joiner_loss(
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
) -> Tensor:
    """`rnnt_loss_pruned` of the logits tanh(am + lm) weight^T + bias at the label positions of `ranges`.

    Args:
        am: (B, T, D) encoder frames, projected; lm: (B, S+1, D) predictor outputs, projected.
        weight, bias: (C, D) and (C,), the output layer.
        ranges: (B, T, R), from `get_rnnt_prune_ranges`.

    Under autocast to bf16 products are of bf16 numbers with float32 sums and results; all else is float32.

    Raises:
        ValueError: arguments do not fit.
        NotFiniteError: the logits of an utterance hold nan or inf.
    """
    if ranges.ndim != 3 or ranges.shape[:2] != am.shape[:2]:
        raise ValueError(f"ranges must be (B, T, R) beside am (B, T, D), got {tuple(ranges.shape)}, {tuple(am.shape)}")
    bf16 = wanted(am.device.type)
    px, py = _arcs(am, lm, weight, bias, symbols, ranges, termination_symbol, boundary, rnnt_type, bf16)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction)


def exact_joiner_loss(
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
) -> Tensor:
    """`rnnt_loss` of the logits tanh(am + lm) weight^T + bias of every frame with every label position.

    Arguments and errors: see `pruned_joiner_loss`.
    """
    everywhere = torch.arange(lm.shape[1], device=lm.device).expand(*am.shape[:2], -1)
    return pruned_joiner_loss(
        *(am, lm, weight, bias, symbols, everywhere, termination_symbol),
        *(boundary, rnnt_type, delay_penalty, reduction),
    )


@full_precision
def _arcs(
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    ranges: Tensor,
    blank: int,
    boundary: Tensor | None,
    rnnt_type: str,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """px and py of `get_rnnt_logprobs_pruned`, log 0 outside the boundary as well."""
    _check(am, lm, weight, bias, symbols, blank, rnnt_type)
    (B, T, _), S = am.shape, symbols.shape[1]
    b, t, s = _nodes(ranges, checked_boundary(boundary, B, S, T, am.device))
    labels = F.pad(symbols, (0, 1), value=blank)[b, s]  # no label leaves position S: anything will do
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    rows = (b * T + t, b * (S + 1) + s, torch.stack([labels, torch.full_like(labels, blank)], dim=1))
    arcs = _JoinedArcs.apply(am.flatten(0, 1), lm.flatten(0, 1), weight, bias, *rows, bf16)
    where = (b * (S + 1) + s) * T + t
    nowhere = arcs.new_full((B * (S + 1) * T,), -torch.inf)
    px, py = (nowhere.scatter(0, where, arc).view(B, S + 1, T) for arc in arcs.unbind(1))
    return finish_arcs(px[:, :-1], py, boundary, rnnt_type)


def _nodes(ranges: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """b, t, s, (M,) each, of the nodes of `ranges` (B, T, R) within the boundary, frame by frame."""
    s0, t0, s1, t1 = boundary[:, :, None, None].unbind(1)
    t = torch.arange(ranges.shape[1], device=ranges.device)[:, None]
    b, t, r = ((t >= t0) & (t < t1) & (ranges >= s0) & (ranges <= s1)).nonzero(as_tuple=True)
    return b, t, ranges[b, t, r]


class _JoinedArcs(torch.autograd.Function):
    """Log-probabilities (M, 2) of two classes at M nodes, of softmax(tanh(am[t] + lm[s]) weight^T + bias).

    am (rows, D), lm (rows, D); t, s (M,) rows of these; classes (M, 2).
    """

    @staticmethod
    def forward(ctx, am, lm, weight, bias, t, s, classes, bf16: bool):
        ctx.save_for_backward(am, lm, weight, bias, t, s, classes)
        ctx.bf16, ctx.kind = bf16, _kind_of_tiles(am)
        arcs = am.new_empty(len(t), 2)
        tiles = ctx.kind(am, lm, weight, bias)
        with products(am.device.type, bf16):
            for rows in tiles.of(len(t), of_device(TILE, am)):
                tiles.write_arcs(t[rows], s[rows], classes[rows], arcs[rows])
        return arcs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        am, lm, weight, bias, t, s, classes = ctx.saved_tensors
        size = grad.abs().amax(1)
        rounding = torch.finfo(grad.dtype).eps / 2  # what is less than this part of the largest would not show in sums
        kept = (size > rounding * size.max()).nonzero()[:, 0] if len(size) else t
        grad, t, s, classes = grad[kept], t[kept], s[kept], classes[kept]
        grads = [torch.zeros_like(each) for each in (am, lm, weight, bias)]
        tiles = ctx.kind(am, lm, weight, bias)
        with torch.autocast(am.device.type, enabled=False), products(am.device.type, ctx.bf16):
            for rows in tiles.of(len(t), of_device(TILE, am)):
                tiles.add_grads(t[rows], s[rows], classes[rows], grad[rows], *grads)
        return *grads, None, None, None, None


def _kind_of_tiles(am: Tensor) -> type[Tiles]:
    module = compiled("tiles_numba", am) if am.dtype == torch.float32 else None
    return module.CompiledTiles if module else Tiles


def _check(
    am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor | None, symbols: Tensor, blank: int, rnnt_type: str
) -> None:
    fit = am.ndim == lm.ndim == 3 and weight.ndim == 2 and len(am) == len(lm) and lm.shape[1] > 0
    if not (fit and am.shape[2] == lm.shape[2] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])):
        shapes = ", ".join("None" if each is None else str(tuple(each.shape)) for each in (am, lm, weight, bias))
        raise ValueError(f"am (B, T, D), lm (B, S+1, D), weight (C, D) and bias (C,) do not fit: got {shapes}")
    check_arguments(symbols, len(am), lm.shape[1] - 1, len(weight), blank, rnnt_type)
