"""The loss of the additive joiner from the inputs of its two projections, without the logits of the whole batch.

The log-normalizers are summed block by block in `kernels/additive_joiner.py`; the logits of a small batch are computed
whole, which is its reference. Letters and conventions: see `simple.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from residualformer.kernels.additive_joiner import logits_and_norms
from residualformer.kernels.additive_joiner_padded import padded_arcs
from residualformer.kernels.precision import is_bf16_autocast, no_autocast, widened
from residualformer.kernels.projection import Projection, mean_softmax
from residualformer.loss.arcs import Loss, checked_arguments, finish_arcs, loss_with_grads
from residualformer.loss.simple import get_rnnt_logprobs_smoothed, mixed_arcs
from residualformer.padding import real_rows

SMALL = 2**20  # up to so many encoder-side logits a CPU computes them faster all at once


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
    """Return `rnnt_loss_smoothed` of am = linear(encoded), lm = linear(predicted); with both scales 0 the simple loss.

    Args:
        encoded: (B, T, E) encoder frames; predicted: (B, S+1, P) predictor states. What `boundary` leaves out is not
            read, with one exception: the unigram average of am_only_scale is over all rows of `predicted`, as in k2.
        encoder_weight: (C, E); encoder_bias: (C,) or None; predictor_weight: (C, P); predictor_bias: (C,) or None.

    The other arguments are those of `rnnt_loss_smoothed`. Under autocast to bf16 the projections of all but small
    batches, and their gradients, are products of bf16 factors with float32 sums (`precision.bf16_products`). All else
    is float32, or float64 for float64 tensors. Raises ValueError if arguments do not fit, and NotFiniteError if the
    logits of an utterance hold nan or inf.
    """
    bf16, scales = is_bf16_autocast(encoded.device.type), (lm_only_scale, am_only_scale)
    encoder = Projection(*widened(encoded, encoder_weight, encoder_bias), bf16=bf16)
    predictor = Projection(*widened(predicted, predictor_weight, predictor_bias), bf16=bf16)
    sizes = _checked_sizes(encoder, predictor)
    with checked_arguments(symbols, boundary, encoded.shape[1], sizes, termination_symbol, rnnt_type) as boundary:
        with no_autocast(encoded):
            px, py = _arcs(encoder, predictor, symbols, termination_symbol, boundary, scales, rnnt_type)
        return loss_with_grads(px, py, boundary, delay_penalty, reduction, return_grad)


def _arcs(
    encoder: Projection,
    predictor: Projection,
    symbols: Tensor,
    blank: int,
    boundary: Tensor,
    scales: tuple[float, float],
    rnnt_type: str,
) -> tuple[Tensor, Tensor]:
    """Return px and py of `get_rnnt_logprobs_smoothed`, with any finite number outside the boundary."""
    lm_scale, am_scale = scales
    encoded, predicted = encoder.x, predictor.x
    if takes_padding(encoded):
        unigram = mean_softmax(predictor) if am_scale != 0.0 else None
        px, py = padded_arcs(encoder, predictor, unigram, symbols, blank, boundary, scales)
        return finish_arcs(px, py, boundary, rnnt_type)
    if encoded.shape[0] * encoded.shape[1] * len(encoder.weight) <= SMALL:
        encoded = real_rows(encoded, boundary[:, 1], boundary[:, 3])
        if am_scale == 0.0:  # else the unigram average is over all rows
            predicted = real_rows(predicted, boundary[:, 0], boundary[:, 2] + 1)
        am, lm = F.linear(encoded, encoder.weight, encoder.bias), F.linear(predicted, predictor.weight, predictor.bias)
        return get_rnnt_logprobs_smoothed(lm, am, symbols, blank, lm_scale, am_scale, boundary, rnnt_type)
    unigram = mean_softmax(predictor) if am_scale != 0.0 else None
    parts = logits_and_norms(encoder, predictor, unigram, symbols, blank, boundary)
    lm_part = (lm_scale, parts.lm_norm) if lm_scale != 0.0 else None
    am_part = None
    if unigram is not None:
        log_unigram = unigram.log()
        am_part = am_scale, parts.am_norm, log_unigram[symbols][:, :, None], log_unigram[blank]
    px, py = mixed_arcs(parts.px_am, parts.py_am, parts.px_lm, parts.py_lm, parts.joint, lm_part, am_part)
    return finish_arcs(px, py, boundary, rnnt_type)


def takes_padding(x: Tensor) -> bool:
    """Return whether a batch is computed with its padding: on a GPU a launch costs more than numbers for nothing."""
    return x.device.type != "cpu"


def _checked_sizes(encoder: Projection, predictor: Projection) -> tuple[int, int, int]:
    """Return (B, S, C); raise ValueError if shapes or types do not fit."""
    B, C = len(encoder.x), len(encoder.weight)
    fit = encoder.x.ndim == predictor.x.ndim == 3 and len(predictor.x) == B and predictor.x.shape[1] > 0
    for x, weight, bias in (encoder.tensors, predictor.tensors):
        fit = fit and weight.shape == (C, x.shape[-1]) and (bias is None or bias.shape == (C,))
    if not fit:
        tensors = (encoder.x, predictor.x, *encoder.tensors[1:], *predictor.tensors[1:])
        given = [None if each is None else tuple(each.shape) for each in tensors]
        raise ValueError(
            "encoded (B, T, E), predicted (B, S+1, P), encoder_weight (C, E), encoder_bias (C,), "
            f"predictor_weight (C, P) and predictor_bias (C,) do not fit: got {', '.join(map(str, given))}"
        )
    types = dict.fromkeys(str(each.dtype) for each in (*encoder.tensors, *predictor.tensors) if each is not None)
    if len(types) > 1:
        raise ValueError(f"the projections and their inputs must be of one type: got {', '.join(types)}")
    return B, predictor.x.shape[1] - 1, C
