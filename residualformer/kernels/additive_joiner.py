"""Logits and log-normalizers of an additive joiner, block by block, without the logits of a whole batch.

The logits am = encoded W^T + b, (B, T, C), and lm, (B, L, C), are needed for one thing that sums over classes, the
log-normalizer of softmax(am + lm):

    joint[s, t] = log sum_c exp(lm[s, c] + am[t, c])     (Kuang et al., 2022, section 3.1)

It is summed over blocks of classes under running maxima, as in Milakov and Gimelshein, "Online normalizer calculation
for softmax", 2018. Backward computes the blocks again: beside the gradients of the weights no tensor is larger than a
block. Only real frames and label positions are computed. The logits of labels and blank are products of their own.

Letters: B batch, T frames, S labels, L = S + 1 label positions, C classes (blank included).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import limit_for_device
from residualformer.kernels.precision import no_autocast
from residualformer.kernels.projection import Projection, blocks, grads_where_needed

FRAMES = {"cpu": 2048, "cuda": 16384}  # utterances are grouped up to so many frames: large products, few steps


class LogitsAndNorms(NamedTuple):
    """Logits of labels (px) and blank (py) and log-normalizers, or the gradients of these; 0 outside the boundary."""

    px_am: Tensor  # (B, S, T)
    py_am: Tensor  # (B, 1, T)
    px_lm: Tensor  # (B, S, 1)
    py_lm: Tensor  # (B, L, 1)
    joint: Tensor  # (B, L, T), of am + lm
    lm_norm: Tensor  # (B, L, 1), of lm
    am_norm: Tensor  # (B, 1, T), of am + log(unigram); 0 without a unigram


def logits_and_norms(
    encoder: Projection, predictor: Projection, unigram: Tensor | None, symbols: Tensor, blank: int, boundary: Tensor
) -> LogitsAndNorms:
    """Return what the arcs of an additive joiner are made of.

    Args:
        encoder: of encoder frames (B, T, E); predictor: of predictor states (B, L, P), in the same precision.
        unigram: (C,), probabilities, or None; symbols: (B, S); boundary: (B, 4).
    """
    others = unigram, symbols, blank, _groups(boundary), encoder.bf16
    return LogitsAndNorms(*_LogitsAndNorms.apply(*encoder.tensors, *predictor.tensors, *others))


class _Utterance(NamedTuple):
    """The place of an utterance: its label positions and frames in row b of the batch, and in the rows of its group."""

    b: int
    s: slice
    t: slice
    labels: slice
    frames: slice

    @property
    def emitting(self) -> slice:
        """Return the label positions in the batch that a label may leave."""
        return slice(self.s.start, self.s.stop - 1)

    def classes(self, symbols: Tensor, blank: int) -> Tensor:
        """Return the blank and the labels, (labels + 1,)."""
        labels = symbols[self.b, self.emitting]
        return torch.cat([labels.new_tensor([blank]), labels])


Group = list[_Utterance]


def _groups(boundary: Tensor) -> list[Group]:
    """Return groups of the utterances that have frames, of one utterance or of up to FRAMES frames each."""
    groups: list[Group] = []
    labels = frames = 0
    most = limit_for_device(FRAMES, boundary)
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        L, T = s1 + 1 - s0, t1 - t0
        if T == 0:
            continue
        if not groups or frames + T > most:
            groups.append([])
            labels = frames = 0
        rows = slice(labels, labels + L), slice(frames, frames + T)
        groups[-1].append(_Utterance(b, slice(s0, s1 + 1), slice(t0, t1), rows[0], rows[1]))
        labels, frames = labels + L, frames + T
    return groups


@dataclass
class _Sums:
    """Maximal logits of a group, and sums of exponentials over all classes."""

    am_max: Tensor  # (frames,)
    lm_max: Tensor  # (label positions,)
    lm: Tensor  # (label positions,), sum of exp(lm - lm_max)
    unigram: Tensor  # (frames,), sum of unigram * exp(am - am_max)
    joint: list[Tensor]  # per utterance (label positions, frames), sum of exp(lm - lm_max + am - am_max)

    @classmethod
    def of(cls, am: Projection, lm: Projection, unigram: Tensor | None, group: Group) -> _Sums:
        """Return the sums over all classes, block by block."""
        M, L, lowest = len(am.x), len(lm.x), torch.finfo(am.x.dtype).min
        sums = cls(
            am.x.new_full((M,), lowest),
            am.x.new_full((L,), lowest),
            am.x.new_zeros(L),
            am.x.new_zeros(M),
            [am.x.new_zeros(u.labels.stop - u.labels.start, u.frames.stop - u.frames.start) for u in group],
        )
        for classes, (am_exp, lm_exp) in blocks(am.x, len(am.weight), M, L):
            am_scale = am.running_exp(classes, sums.am_max, out=am_exp)
            lm_scale = lm.running_exp(classes, sums.lm_max, out=lm_exp)
            sums.lm.mul_(lm_scale).add_(lm_exp.sum(1))
            if unigram is not None:
                sums.unigram.mul_(am_scale).addmv_(am_exp, unigram[classes])
            for u, joint in zip(group, sums.joint):
                joint.mul_(lm_scale[u.labels, None]).mul_(am_scale[u.frames])
                joint.addmm_(lm_exp[u.labels], am_exp[u.frames].t())
        tiny = torch.finfo(am.x.dtype).tiny  # avoids log 0 where the two parts share no likely class
        for joint in sums.joint:
            joint.add_(tiny)
        return sums


class _LogitsAndNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments: Any) -> tuple[Tensor, ...]:
        unigram, symbols, blank, groups, bf16 = arguments[6:]  # before these, autograd wants the tensors one by one
        encoder, predictor = Projection(*arguments[:3], bf16=bf16), Projection(*arguments[3:6], bf16=bf16)
        (B, T), L = encoder.x.shape[:2], predictor.x.shape[1]
        shapes = (L - 1, T), (1, T), (L - 1, 1), (L, 1), (L, T), (L, 1), (1, T)
        parts = LogitsAndNorms(*(encoder.x.new_zeros(B, *shape) for shape in shapes))
        ctx.save_for_backward(*encoder.tensors, *predictor.tensors, unigram, symbols)
        ctx.blank, ctx.bf16, ctx.groups = blank, bf16, []
        for group in groups:
            am, lm = _joined(encoder, [(u.b, u.t) for u in group]), _joined(predictor, [(u.b, u.s) for u in group])
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
    def backward(ctx, *part_grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, unigram, symbols = ctx.saved_tensors
        *grads, unigram_grad = grads_where_needed(ctx, *inputs, unigram)
        encoder = Projection(*inputs[:3], *grads[:3], bf16=ctx.bf16)
        predictor = Projection(*inputs[3:], *grads[3:], bf16=ctx.bf16)
        parts = LogitsAndNorms(*part_grads)
        with no_autocast(symbols):
            for group, sums in ctx.groups:
                am, lm = _joined(encoder, [(u.b, u.t) for u in group]), _joined(predictor, [(u.b, u.s) for u in group])
                _add_grads_of_norms(parts, am, lm, unigram, unigram_grad, sums, group)
                for u in group:
                    _add_grads_of_logits(parts, am, lm, u, u.classes(symbols, ctx.blank))
                    if encoder.x_grad is not None and am.x_grad is not None:
                        encoder.x_grad[u.b, u.t] = am.x_grad[u.frames]
                    if predictor.x_grad is not None and lm.x_grad is not None:
                        predictor.x_grad[u.b, u.s] = lm.x_grad[u.labels]
        return *grads, unigram_grad, None, None, None, None


def _joined(batch: Projection, places: list[tuple[int, slice]]) -> Projection:
    """Return the projection of the rows at some places (utterance, rows) of a batch, one after the other."""
    x = torch.cat([batch.x[place] for place in places])
    return replace(batch, x=x, x_grad=None if batch.x_grad is None else torch.zeros_like(x))


def _write_logits(parts: LogitsAndNorms, am: Projection, lm: Projection, u: _Utterance, classes: Tensor) -> None:
    """Write the logits of blank and labels of an utterance."""
    am_logits, lm_logits = am.logits(u.frames, classes).t(), lm.logits(u.labels, classes)
    parts.py_am[u.b, 0, u.t] = am_logits[0]
    parts.px_am[u.b, u.emitting, u.t] = am_logits[1:]
    parts.py_lm[u.b, u.s, 0] = lm_logits[:, 0]
    parts.px_lm[u.b, u.emitting, 0] = lm_logits.diagonal(1)


def _add_grads_of_logits(grads: LogitsAndNorms, am: Projection, lm: Projection, u: _Utterance, classes: Tensor) -> None:
    """Propagate the gradients of the logits of blank and labels of an utterance."""
    am_grad = torch.cat([grads.py_am[u.b, :, u.t], grads.px_am[u.b, u.emitting, u.t]])  # (labels + 1, frames)
    am.add_grads(am_grad.t(), u.frames, classes)
    lm_grad = torch.diag_embed(grads.px_lm[u.b, u.emitting, 0], offset=1)  # (labels + 1, labels + 1)
    lm_grad[:, 0] = grads.py_lm[u.b, u.s, 0]
    lm.add_grads(lm_grad, u.labels, classes)


def _add_grads_of_norms(
    grads: LogitsAndNorms,
    am: Projection,
    lm: Projection,
    unigram: Tensor | None,
    unigram_grad: Tensor | None,
    sums: _Sums,
    group: Group,
) -> None:
    """Propagate the gradients of joint, lm_norm and am_norm of a group, through exponentials divided by their sums."""
    joint = [grads.joint[u.b, u.s, u.t] / joint for u, joint in zip(group, sums.joint)]
    lm_norm = torch.cat([grads.lm_norm[u.b, u.s, 0] for u in group]) / sums.lm
    am_norm = torch.cat([grads.am_norm[u.b, 0, u.t] for u in group]) / sums.unigram
    M, L = len(am.x), len(lm.x)
    for classes, (am_exp, am_grad, lm_exp, lm_grad) in blocks(am.x, len(am.weight), M, M, L, L):
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
