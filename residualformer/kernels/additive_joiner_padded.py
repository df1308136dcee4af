"""The arcs of an additive joiner for whole padded batches: few launches and no wait for lengths, as a GPU wants it.

`additive_joiner.py` leaves out the padding, which on a CPU is worth an operator per utterance. Here some utterances at
a time are computed with their padding and all classes; forward keeps no logits, and backward computes them again.

Letters: B batch, T frames, S labels, L = S + 1 label positions, C classes (blank included).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.precision import bf16_products, no_autocast
from residualformer.kernels.projection import Projection
from residualformer.padding import real_rows

BLOCK = 2**26  # logits in a buffer (256 MB), unless one utterance has more; backward uses up to four buffers
ALL = slice(None)


def padded_arcs(
    encoder: Projection,
    predictor: Projection,
    unigram: Tensor | None,
    symbols: Tensor,
    blank: int,
    boundary: Tensor,
    scales: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Return smoothed arcs, px (B, S, T) and py (B, L, T), as `loss.simple.mixed_arcs` defines them.

    Args:
        encoder: of encoder frames (B, T, E); predictor: of predictor states (B, L, P), in the same precision.
        unigram: (C,), probabilities, or None; symbols: (B, S); boundary: (B, 4).
        scales: lm_only_scale and am_only_scale; the latter is 0 without a unigram.
    """
    others = unigram, symbols, blank, boundary, scales, encoder.bf16
    px, py = _PaddedArcs.apply(*encoder.tensors, *predictor.tensors, *others)
    if unigram is None:
        return px, py
    log_unigram = unigram.log() * scales[1]
    return px + log_unigram[symbols][:, :, None], py + log_unigram[blank]


class _PaddedArcs(torch.autograd.Function):
    """The arcs without what the unigram gives to labels and blank."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        unigram, symbols, blank, boundary, (lm_scale, am_scale), bf16 = arguments[6:]
        x, y = arguments[0], arguments[3]
        (B, T, _), L, C = x.shape, y.shape[1], len(arguments[1])
        x = real_rows(x, boundary[:, 1], boundary[:, 3])
        y = real_rows(y, boundary[:, 0], boundary[:, 2] + 1)
        encoder, predictor = _flat(x, arguments[1:3], bf16), _flat(y, arguments[4:6], bf16)
        am_classes = F.pad(symbols, (1, 0), value=blank)  # (B, L): the blank and the labels
        lm_classes = symbols.new_full((B, L, 2), blank)  # of each position, the label, if there is one, and the blank
        lm_classes[:, :-1, 0] = symbols

        new = x.new_empty
        am, lm, joint = new(B, T, L), new(B, L, 2), new(B, L, T)  # logits of these classes; sums of exponentials
        am_max, lm_max, lm_sum, am_sum = new(B, T), new(B, L), new(B, L), new(B, T)
        for rows in _blocks(B, T, L, C):
            frames, positions = _logits(encoder, rows, T), _logits(predictor, rows, L)
            torch.gather(frames, 2, am_classes[rows, None].expand(-1, T, -1), out=am[rows])
            torch.gather(positions, 2, lm_classes[rows], out=lm[rows])
            for logits, maximum in ((frames, am_max), (positions, lm_max)):
                torch.amax(logits, 2, out=maximum[rows])
                logits.sub_(maximum[rows, :, None]).exp_()
            torch.bmm(positions, frames.mT, out=joint[rows])
            if lm_scale:
                torch.sum(positions, 2, out=lm_sum[rows])
            if unigram is not None:
                torch.mv(frames.flatten(0, 1), unigram, out=am_sum[rows].view(-1))
        joint.add_(torch.finfo(joint.dtype).tiny)  # avoids log 0 where the two parts share no likely class

        ctx.save_for_backward(x, y, *arguments[1:3], *arguments[4:6], unigram, am_classes, lm_classes)
        ctx.sums = am_max, lm_max, am_sum, lm_sum, joint
        ctx.scales, ctx.bf16 = (lm_scale, am_scale), bf16
        scale = 1.0 - lm_scale - am_scale
        per_frame, per_position = am_max * scale, lm_max * scale
        if lm_scale:
            per_position = per_position.add_(lm_sum.log().add_(lm_max), alpha=lm_scale)
        if unigram is not None:
            per_frame = per_frame.add_(am_sum.log().add_(am_max), alpha=am_scale)
        norm = _scaled_(joint.log(), scale).add_(per_frame[:, None])
        lm = _scaled_(lm, scale + lm_scale).sub_(per_position[:, :, None])
        am = _scaled_(am, scale + am_scale)
        px = (am[:, :, 1:].mT + lm[:, :-1, :1]).sub_(norm[:, :-1])
        return px, (am[:, None, :, 0] + lm[:, :, 1:]).sub_(norm)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, px_grad: Tensor, py_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *linears, unigram, am_classes, lm_classes = ctx.saved_tensors
        am_max, lm_max, am_sum, lm_sum, joint = ctx.sums
        lm_scale, am_scale = ctx.scales
        scale = 1.0 - lm_scale - am_scale
        (B, T, _), L, C = x.shape, y.shape[1], len(linears[0])
        grads = [
            torch.empty_like(each) if each is not None and needed else None
            for each, needed in zip((x, *linears[:2], y, *linears[2:], unigram), ctx.needs_input_grad)
        ]
        encoder, predictor = _flat(x, linears[:2], ctx.bf16, *grads[:3]), _flat(y, linears[2:], ctx.bf16, *grads[3:6])

        both = py_grad.clone()  # the gradient of what is taken from px and py alike, but for its sign
        both[:, :-1] += px_grad
        am_grad, lm_grad = am_max.new_empty(B, T, L), lm_max.new_zeros(B, L, 2)
        torch.sum(py_grad, 1, out=am_grad[:, :, 0])
        am_grad[:, :, 1:] = px_grad.mT
        torch.sum(px_grad, 2, out=lm_grad[:, :-1, 0])
        torch.sum(py_grad, 2, out=lm_grad[:, :, 1])
        lm_ratio = both.sum(2).div_(lm_sum).mul_(-lm_scale) if lm_scale else None
        am_ratio = both.sum(1).div_(am_sum).mul_(-am_scale) if unigram is not None else None
        ratio = both.div_(joint).mul_(-scale)
        am_grad, lm_grad = _scaled_(am_grad, scale + am_scale), _scaled_(lm_grad, scale + lm_scale)
        with no_autocast(x):  # backward may be called within it
            for rows in _blocks(B, T, L, C):
                frames = _logits(encoder, rows, T).sub_(am_max[rows, :, None]).exp_()
                positions = _logits(predictor, rows, L).sub_(lm_max[rows, :, None]).exp_()
                frames_grad, positions_grad = torch.bmm(ratio[rows].mT, positions), torch.bmm(ratio[rows], frames)
                if lm_ratio is not None:
                    positions_grad += lm_ratio[rows, :, None]
                if am_ratio is not None:
                    frames_grad.flatten(0, 1).addr_(am_ratio[rows].flatten(), unigram)
                    if grads[6] is not None:
                        weight = frames.flatten(0, 1).t()
                        grads[6].addmv_(weight, am_ratio[rows].flatten(), beta=float(rows.start > 0))
                frames_grad.mul_(frames).scatter_add_(2, am_classes[rows, None].expand(-1, T, -1), am_grad[rows])
                positions_grad.mul_(positions).scatter_add_(2, lm_classes[rows], lm_grad[rows])
                _add_grads(encoder, frames_grad, rows, T)
                _add_grads(predictor, positions_grad, rows, L)
        return *grads, None, None, None, None, None


def _flat(x: Tensor, linear: Any, bf16: bool, *grads: Tensor | None) -> Projection:
    """Return the projection of the rows of x (B, M, D), one after the other; gradients share memory with `grads`."""
    rows = [None if each is None else each.flatten(0, 1) for each in grads[:1]]
    return Projection(x.flatten(0, 1), *linear, *rows, *grads[1:], bf16=bf16)


def _blocks(B: int, T: int, L: int, C: int) -> Iterator[slice]:
    """Yield blocks of utterances whose logits fit into a buffer."""
    size = max(1, BLOCK // (max(T, L, 1) * C))
    for start in range(0, B, size):
        yield slice(start, min(start + size, B))


def _logits(side: Projection, rows: slice, M: int) -> Tensor:
    """Return the logits (b, M, C) of the utterances `rows`, each of M rows of the projection."""
    x = side.x[rows.start * M : rows.stop * M]
    with bf16_products(x.device.type, side.bf16):
        y = torch.mm(x, side.weight.t()) if side.bias is None else torch.addmm(side.bias, x, side.weight.t())
    return y.view(-1, M, len(side.weight))


def _add_grads(side: Projection, grad: Tensor, rows: slice, M: int) -> None:
    """Write the gradients of the rows, and add those of weight and bias to what the blocks before have given."""
    places, grad = slice(rows.start * M, rows.stop * M), grad.flatten(0, 1)
    beta = float(rows.start > 0)
    with bf16_products(grad.device.type, side.bf16):
        if side.x_grad is not None:
            torch.mm(grad, side.weight, out=side.x_grad[places])
        if side.weight_grad is not None:
            side.weight_grad.addmm_(grad.t(), side.x[places], beta=beta)
    if side.bias_grad is not None and beta:
        side.bias_grad += grad.sum(0)
    elif side.bias_grad is not None:
        torch.sum(grad, 0, out=side.bias_grad)


def _scaled_(x: Tensor, factor: float) -> Tensor:
    """Return x times the factor, in place."""
    return x if factor == 1.0 else x.mul_(factor)
