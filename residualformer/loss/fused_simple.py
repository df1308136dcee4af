"""The loss of the additive joiner from the inputs of its two projections, without their logits of the whole batch.

The logits am = encoded W^T + b, (B, T, C), and lm, (B, S+1, C), are needed for one thing that sums over classes, the
normaliser of softmax(am + lm):

    joint[s, t] = log sum_c exp(lm[s, c] + am[t, c])     ("Pruned RNN-T ...", Kuang et al., 2022, section 3.1)

It is summed up over blocks of classes under running maxima, as in "Online normalizer calculation for softmax"
(Milakov and Gimelshein, 2018), and backward makes the blocks again: beside weight gradients no tensor is larger than a
block. Only real frames and label positions are computed. The logits of the labels and of the blank are products of
their own. Logits of a small batch are made as they are. Letters and conventions: see `rnnt.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.precision import wanted
from residualformer.loss.common import check_arguments, finish_arcs, full_precision, loss_of_arcs, of_device
from residualformer.loss.projection import Blocks, Projection, mean_softmax
from residualformer.loss.recursion import checked_boundary
from residualformer.loss.rnnt import Loss, get_rnnt_logprobs_smoothed, mixed_arcs

FRAMES = {"cpu": 2048, "cuda": 16384}  # utterances are taken together up to so many: large products, few steps
SMALL = {"cpu": 2**20, "cuda": 2**24}  # up to so many logits of the encoder's side, all at once takes less time


def simple_joiner_loss(
    encoded: Tensor,
    predicted: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    predictor_weight: Tensor,
    predictor_bias: Tensor | None,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    return_grad: bool = False,
) -> Loss:
    """`rnnt_loss_smoothed` of am = linear(encoded) and lm = linear(predicted), `rnnt_loss_simple` if both scales are 0.

    Args:
      encoded: (B, T, E) encoder frames; predicted: (B, S+1, P) predictor states. What `boundary` leaves out is not
        looked at, with one exception: the unigram average of am_only_scale is over all rows of `predicted`, as in k2.
      encoder_weight: (C, E), encoder_bias: (C,) or None; predictor_weight: (C, P), predictor_bias: (C,) or None.
      The rest as in `rnnt_loss_smoothed`.

    Under autocast to bf16 the projections of all but small batches, and their gradients, are products of bf16 factors
    with float32 sums (`precision.products`); all else is float32, or float64 for float64 tensors. ValueError if
    arguments do not fit.
    """
    sizes = _checked_sizes(encoded, predicted, encoder_weight, encoder_bias, predictor_weight, predictor_bias)
    check_arguments(symbols, *sizes, termination_symbol, rnnt_type)
    bf16 = wanted(encoded.device.type)
    linears = encoded, encoder_weight, encoder_bias, predicted, predictor_weight, predictor_bias
    scales = lm_only_scale, am_only_scale
    px, py = _arcs(*linears, symbols, termination_symbol, boundary, scales, rnnt_type, bf16)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction, return_grad)


@full_precision
def _arcs(
    encoded: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    predicted: Tensor,
    predictor_weight: Tensor,
    predictor_bias: Tensor | None,
    symbols: Tensor,
    blank: int,
    boundary: Tensor | None,
    scales: tuple[float, float],
    rnnt_type: str,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """px and py of `get_rnnt_logprobs_smoothed`, anything finite outside the boundary."""
    linears = encoded, encoder_weight, encoder_bias, predicted, predictor_weight, predictor_bias
    types = {str(x.dtype): None for x in linears if x is not None}
    if len(types) > 1:
        raise ValueError(f"the projections and their inputs must be of one type: got {', '.join(types)}")
    boundary = checked_boundary(boundary, len(encoded), symbols.shape[1], encoded.shape[1], encoded.device)
    if encoded.shape[0] * encoded.shape[1] * len(encoder_weight) <= of_device(SMALL, encoded):
        encoded = _real_rows(encoded, boundary[:, 1], boundary[:, 3])
        if scales[1] == 0.0:  # else the unigram average is over all rows
            predicted = _real_rows(predicted, boundary[:, 0], boundary[:, 2] + 1)
        am, lm = F.linear(encoded, encoder_weight, encoder_bias), F.linear(predicted, predictor_weight, predictor_bias)
        return get_rnnt_logprobs_smoothed(lm, am, symbols, blank, *scales, boundary, rnnt_type)
    unigram = px_unigram = py_unigram = None
    if scales[1] != 0.0:
        unigram = mean_softmax(predicted, predictor_weight, predictor_bias, bf16)
        log_unigram = unigram.log()
        px_unigram, py_unigram = log_unigram[symbols][:, :, None], log_unigram[blank]
    parts = _LogitsAndNorms.apply(*linears, unigram, symbols, blank, _groups(boundary), bf16)
    px, py = mixed_arcs(*parts, px_unigram, py_unigram, *scales)
    return finish_arcs(px, py, boundary, rnnt_type)


def _checked_sizes(encoded: Tensor, predicted: Tensor, *weights: Tensor | None) -> tuple[int, int, int]:
    """(B, S, C) of the arguments of `simple_joiner_loss`, or ValueError."""
    C = len(weights[0])
    expected = (C, encoded.shape[-1]), (C,), (C, predicted.shape[-1]), (C,)
    fit = encoded.ndim == predicted.ndim == 3 and len(encoded) == len(predicted) and predicted.shape[1] > 0
    if not fit or any(w is not None and w.shape != shape for w, shape in zip(weights, expected)):
        given = [None if x is None else tuple(x.shape) for x in (encoded, predicted, *weights)]
        raise ValueError(
            "encoded (B, T, E), predicted (B, S+1, P), encoder_weight (C, E), encoder_bias (C,), "
            f"predictor_weight (C, P) and predictor_bias (C,) do not fit: got {', '.join(map(str, given))}"
        )
    return len(encoded), predicted.shape[1] - 1, C


def _real_rows(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """x (B, L, D) with zeros for rows not in begin..end-1, each (B,)."""
    row = torch.arange(x.shape[1], device=x.device)
    padding = ((row < begin[:, None]) | (row >= end[:, None])).flatten().nonzero()[:, 0]
    return x.flatten(0, 1).index_fill(0, padding, 0).view_as(x) if len(padding) else x


class _Utterance(NamedTuple):
    """Where an utterance is: its label positions and frames in row b of the batch, and among the rows of its group."""

    b: int
    s: slice
    t: slice
    labels: slice
    frames: slice

    @property
    def emitting(self) -> slice:
        """The label positions in the batch that a label may follow."""
        return slice(self.s.start, self.s.stop - 1)

    def classes(self, symbols: Tensor, blank: int) -> Tensor:
        """The blank and the labels, (labels + 1,)."""
        labels = symbols[self.b, self.emitting]
        return torch.cat([labels.new_tensor([blank]), labels])


Group = list[_Utterance]


def _groups(boundary: Tensor) -> list[Group]:
    """Groups of utterances with frames, each of up to FRAMES frames or of one utterance."""
    groups: list[Group] = []
    labels = frames = 0
    most = of_device(FRAMES, boundary)
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        L, T = s1 + 1 - s0, t1 - t0
        if T == 0:
            continue
        if not groups or frames + T > most:
            groups.append([])
            labels = frames = 0
        where = slice(labels, labels + L), slice(frames, frames + T)
        groups[-1].append(_Utterance(b, slice(s0, s1 + 1), slice(t0, t1), *where))
        labels, frames = labels + L, frames + T
    return groups


@dataclass
class _Sums:
    """Of a group: maximal logits and sums of their exponentials over all classes."""

    am_max: Tensor  # (frames,)
    lm_max: Tensor  # (label positions,)
    lm: Tensor  # (label positions,), sum of exp(lm - lm_max)
    unigram: Tensor  # (frames,), sum of unigram * exp(am - am_max)
    joint: list[Tensor]  # of each utterance (label positions, frames), sum of exp(lm - lm_max + am - am_max)

    @classmethod
    def of(cls, am: Projection, lm: Projection, unigram: Tensor | None, group: Group) -> _Sums:
        M, L, lowest = len(am.x), len(lm.x), torch.finfo(am.x.dtype).min
        sums = cls(
            am.x.new_full((M,), lowest),
            am.x.new_full((L,), lowest),
            am.x.new_zeros(L),
            am.x.new_zeros(M),
            [am.x.new_zeros(u.labels.stop - u.labels.start, u.frames.stop - u.frames.start) for u in group],
        )
        for classes, (am_exp, lm_exp) in Blocks(am.x, len(am.weight), M, L):
            am_scale = am.running_exp(classes, sums.am_max, out=am_exp)
            lm_scale = lm.running_exp(classes, sums.lm_max, out=lm_exp)
            sums.lm.mul_(lm_scale).add_(lm_exp.sum(1))
            if unigram is not None:
                sums.unigram.mul_(am_scale).addmv_(am_exp, unigram[classes])
            for u, joint in zip(group, sums.joint):
                joint.mul_(lm_scale[u.labels, None]).mul_(am_scale[u.frames])
                joint.addmm_(lm_exp[u.labels], am_exp[u.frames].t())
        tiny = torch.finfo(am.x.dtype).tiny  # against log 0 where the two parts share no likely class
        for joint in sums.joint:
            joint.add_(tiny)
        return sums


class _Parts(NamedTuple):
    """The arguments of `mixed_arcs` that depend on am and lm, or their gradients; 0 outside the boundary."""

    px_am: Tensor
    py_am: Tensor
    px_lm: Tensor
    py_lm: Tensor
    joint: Tensor
    lm_norm: Tensor
    am_norm: Tensor


class _LogitsAndNorms(torch.autograd.Function):
    """_Parts of six tensors, (x, weight, bias) of am and of lm, and of the unigram (C,) or None."""

    @staticmethod
    def forward(ctx, *args) -> tuple[Tensor, ...]:
        *linears, unigram, symbols, blank, groups, bf16 = args
        (B, T), L = linears[0].shape[:2], linears[3].shape[1]
        shapes = (L - 1, T), (1, T), (L - 1, 1), (L, 1), (L, T), (L, 1), (1, T)
        parts = _Parts(*(linears[0].new_zeros(B, *shape) for shape in shapes))
        ctx.save_for_backward(*linears, unigram, symbols)
        ctx.blank, ctx.bf16, ctx.groups = blank, bf16, []
        for group in groups:
            am, lm = _projections(group, linears, [None] * 6, bf16)
            sums = _Sums.of(am, lm, unigram, group)
            ctx.groups.append((group, sums))
            for u, joint_sum in zip(group, sums.joint):
                _write_logits(parts, am, lm, u, u.classes(symbols, blank))
                am_max, lm_max = sums.am_max[u.frames], sums.lm_max[u.labels]
                parts.joint[u.b, u.s, u.t] = joint_sum.log() + lm_max[:, None] + am_max
                parts.lm_norm[u.b, u.s, 0] = sums.lm[u.labels].log() + lm_max
                if unigram is not None:
                    parts.am_norm[u.b, 0, u.t] = sums.unigram[u.frames].log() + am_max
        return tuple(parts)

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx, *part_grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, symbols = ctx.saved_tensors
        grads = [torch.zeros_like(x) if needed else None for x, needed in zip(inputs, ctx.needs_input_grad)]
        part_grads = _Parts(*part_grads)
        for group, sums in ctx.groups:
            am, lm = _projections(group, inputs[:6], grads[:6], ctx.bf16)
            _add_grads_of_norms(part_grads, am, lm, inputs[6], grads[6], sums, group)
            for u in group:
                _add_grads_of_logits(part_grads, am, lm, u, u.classes(symbols, ctx.blank))
                if am.x_grad is not None:
                    grads[0][u.b, u.t] = am.x_grad[u.frames]
                if lm.x_grad is not None:
                    grads[3][u.b, u.s] = lm.x_grad[u.labels]
        return *grads, None, None, None, None


def _projections(
    group: Group, linears: list[Tensor | None], grads: list[Tensor | None], bf16: bool
) -> tuple[Projection, Projection]:
    """am and lm of a group, whose rows lie one after the other."""
    frames = torch.cat([linears[0][u.b, u.t] for u in group])
    labels = torch.cat([linears[3][u.b, u.s] for u in group])
    frames_grad, labels_grad = (
        None if grad is None else torch.zeros_like(rows) for grad, rows in ((grads[0], frames), (grads[3], labels))
    )
    am = Projection(frames, *linears[1:3], bf16, frames_grad, *grads[1:3])
    return am, Projection(labels, *linears[4:], bf16, labels_grad, *grads[4:])


def _write_logits(parts: _Parts, am: Projection, lm: Projection, u: _Utterance, classes: Tensor) -> None:
    """The logits of blank and labels of an utterance."""
    am_logits, lm_logits = am.logits(u.frames, classes).t(), lm.logits(u.labels, classes)
    parts.py_am[u.b, 0, u.t], parts.px_am[u.b, u.emitting, u.t] = am_logits[0], am_logits[1:]
    parts.py_lm[u.b, u.s, 0], parts.px_lm[u.b, u.emitting, 0] = lm_logits[:, 0], lm_logits.diagonal(1)


def _add_grads_of_logits(grads: _Parts, am: Projection, lm: Projection, u: _Utterance, classes: Tensor) -> None:
    """What the gradients of the logits of blank and labels of an utterance give."""
    am_grad = torch.cat([grads.py_am[u.b, :, u.t], grads.px_am[u.b, u.emitting, u.t]])  # (labels + 1, frames)
    am.add_grads(am_grad.t(), u.frames, classes)
    lm_grad = torch.diag_embed(grads.px_lm[u.b, u.emitting, 0], offset=1)  # (labels + 1, labels + 1)
    lm_grad[:, 0] = grads.py_lm[u.b, u.s, 0]
    lm.add_grads(lm_grad, u.labels, classes)


def _add_grads_of_norms(
    grads: _Parts,
    am: Projection,
    lm: Projection,
    unigram: Tensor | None,
    unigram_grad: Tensor | None,
    sums: _Sums,
    group: Group,
) -> None:
    """What the gradients of joint, lm_norm and am_norm of a group give: those of exponentials, over their sums."""
    joint = [grads.joint[u.b, u.s, u.t] / joint for u, joint in zip(group, sums.joint)]
    lm_norm = torch.cat([grads.lm_norm[u.b, u.s, 0] for u in group]) / sums.lm
    am_norm = torch.cat([grads.am_norm[u.b, 0, u.t] for u in group]) / sums.unigram
    M, L = len(am.x), len(lm.x)
    for classes, (am_exp, am_grad, lm_exp, lm_grad) in Blocks(am.x, len(am.weight), M, M, L, L):
        am.exp(classes, sums.am_max, out=am_exp)
        lm.exp(classes, sums.lm_max, out=lm_exp)
        for u, ratio in zip(group, joint):
            torch.mm(ratio.t(), lm_exp[u.labels], out=am_grad[u.frames])
            torch.mm(ratio, am_exp[u.frames], out=lm_grad[u.labels])
        if unigram is not None:
            am_grad.addr_(am_norm, unigram[classes])
        if unigram_grad is not None:
            unigram_grad[classes].addmv_(am_exp.t(), am_norm)
        am.add_grads_of_exp(am_grad, am_exp, classes)
        lm.add_grads_of_exp(lm_grad.add_(lm_norm[:, None]), lm_exp, classes)
