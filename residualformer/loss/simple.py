"""Transducer losses of the simple joiner am + lm: the whole lattice without a (B, T, S, C) tensor.

Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training", 2022, section 3.1; names, arguments and
conventions as in k2. Letters: B batch, T frames, S labels, C classes (blank included).

Common arguments:
    lm: (B, S+1, C), predictor part of the logits; am: (B, T, C), encoder part.
    symbols: (B, S) int64, labels, padded with any class; termination_symbol: the blank.
    boundary: (B, 4) int64, rows begin_symbol, begin_frame, end_symbol, end_frame; None means 0, 0, S, T.
    rnnt_type: `regular` (a label consumes no frame), `modified` (it consumes one), `constrained` (it consumes one and
        also pays for a blank at the new label position on the same frame).
    delay_penalty, reduction: see `arcs.loss_of_arcs`.
    return_grad: return (loss, (px_grad, py_grad)), with the occupation of the arcs, for `get_rnnt_prune_ranges`.

All functions raise ValueError for arguments that do not fit, and compute in float32 under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels.precision import full_precision
from residualformer.loss.arcs import Loss, check_arguments, finish_arcs, loss_with_grads


@full_precision
def get_rnnt_logprobs(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the arcs of softmax(am + lm): px (B, S, T+1), or (B, S, T) if labels consume frames; py (B, S+1, T)."""
    return get_rnnt_logprobs_smoothed(lm, am, symbols, termination_symbol, 0.0, 0.0, boundary, rnnt_type)


@full_precision
def get_rnnt_logprobs_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """Return arcs that mix the log-probabilities of am + lm, of lm alone and of am with the average (unigram) lm.

    Their weights are 1 - lm_only_scale - am_only_scale, lm_only_scale and am_only_scale. The average is over all label
    positions of the batch, padding included, as in k2. Shapes: as in `get_rnnt_logprobs`.
    """
    _check(lm, am, symbols, termination_symbol, rnnt_type)
    am_max, lm_max = am.detach().amax(2, keepdim=True), lm.detach().amax(2, keepdim=True)
    am_exp, lm_exp = (am - am_max).exp(), (lm - lm_max).exp()
    tiny = torch.finfo(am.dtype).tiny  # avoids log 0 where the two parts share no likely class
    joint = (lm_exp @ am_exp.transpose(1, 2) + tiny).log() + lm_max + am_max.transpose(1, 2)  # (B, S+1, T)

    labels = symbols[:, :, None]
    px_am = am.transpose(1, 2).gather(1, labels.expand(-1, -1, am.shape[1]))  # (B, S, T)
    px_lm = lm[:, :-1].gather(2, labels)  # (B, S, 1)
    py_am, py_lm = am[:, None, :, termination_symbol], lm[:, :, None, termination_symbol]  # (B, 1, T), (B, S+1, 1)
    lm_part = am_part = None
    if lm_only_scale != 0.0:
        lm_part = lm_only_scale, lm_exp.sum(2, keepdim=True).log() + lm_max  # (B, S+1, 1)
    if am_only_scale != 0.0:
        unigram = (lm_exp / lm_exp.sum(2, keepdim=True)).mean((0, 1)) + tiny  # (C,)
        am_norm = ((am_exp @ unigram).log() + am_max[:, :, 0])[:, None]  # (B, 1, T)
        am_part = am_only_scale, am_norm, unigram.log()[labels], unigram.log()[termination_symbol]
    px, py = mixed_arcs(px_am, py_am, px_lm, py_lm, joint, lm_part, am_part)
    return finish_arcs(px, py, boundary, rnnt_type)


def mixed_arcs(
    px_am: Tensor,
    py_am: Tensor,
    px_lm: Tensor,
    py_lm: Tensor,
    joint: Tensor,
    lm_part: tuple[float, Tensor] | None = None,
    am_part: tuple[float, Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return smoothed arcs (B, S, T) and (B, S+1, T) from the logits of labels and blank and the log-normalizers.

    Args:
        px_am: (B, S, T), py_am: (B, 1, T), px_lm: (B, S, 1), py_lm: (B, S+1, 1), the logits.
        joint: (B, S+1, T), the log-normalizer of am + lm.
        lm_part: lm_only_scale and the log-normalizer of lm, (B, S+1, 1); None without that part.
        am_part: am_only_scale, the log-normalizer of am with the average lm, (B, 1, T), and the log-probabilities of
            labels (B, S, 1) and blank () under the average lm; None without that part.
    """
    scale = 1.0 - (lm_part[0] if lm_part else 0.0) - (am_part[0] if am_part else 0.0)
    px, py = px_am + px_lm - joint[:, :-1], py_am + py_lm - joint
    if scale != 1.0:
        px, py = px * scale, py * scale
    if lm_part:
        lm_scale, lm_norm = lm_part
        px, py = px + lm_scale * (px_lm - lm_norm[:, :-1]), py + lm_scale * (py_lm - lm_norm)
    if am_part:
        am_scale, am_norm, px_unigram, py_unigram = am_part
        px = px + am_scale * (px_am + px_unigram - am_norm)
        py = py + am_scale * (py_am + py_unigram - am_norm)
    return px, py


@full_precision
def rnnt_loss_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    return_grad: bool = False,
) -> Loss:
    """Return the transducer loss of softmax(am + lm); arguments: see the top of this file."""
    px, py = get_rnnt_logprobs(lm, am, symbols, termination_symbol, rnnt_type, boundary)
    return loss_with_grads(px, py, boundary, delay_penalty, reduction, return_grad)


@full_precision
def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    return_grad: bool = False,
) -> Loss:
    """Return the loss of the arcs of `get_rnnt_logprobs_smoothed`; with both scales 0 it is `rnnt_loss_simple`."""
    px, py = get_rnnt_logprobs_smoothed(
        lm, am, symbols, termination_symbol, lm_only_scale, am_only_scale, boundary, rnnt_type
    )
    return loss_with_grads(px, py, boundary, delay_penalty, reduction, return_grad)


def _check(lm: Tensor, am: Tensor, symbols: Tensor, termination_symbol: int, rnnt_type: str) -> None:
    if lm.ndim != 3 or am.ndim != 3 or lm.shape[::2] != am.shape[::2] or lm.shape[1] == 0:
        raise ValueError(f"lm (B, S+1, C) and am (B, T, C) do not fit: got {tuple(lm.shape)} and {tuple(am.shape)}")
    check_arguments(symbols, len(lm), lm.shape[1] - 1, lm.shape[2], termination_symbol, rnnt_type)
