"""Transducer losses of a tanh joiner from its two projections on, without the logits.

The nodes (frame t, label position s) of the lattice that count are computed tile by tile in `kernels/tanh_joiner.py`.
Letters and conventions: see `simple.py`; D is the joint dimension, M the number of nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from residualformer.kernels.precision import is_bf16_autocast, no_autocast, widened
from residualformer.kernels.tanh_joiner import node_log_probs
from residualformer.loss.arcs import check_arguments, finish_arcs, loss_of_arcs
from residualformer.loss.recursion import checked_boundary


def pruned_joiner_loss(
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    ranges: Tensor | None,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
) -> Tensor:
    """Return `rnnt_loss_pruned` of the logits tanh(am + lm) weight^T + bias at the label positions of `ranges`.

    Arguments and errors: see `pruned_joiner_arcs`; also raises NotFiniteError if the logits of an utterance hold nan or
    inf.
    """
    px, py = pruned_joiner_arcs(am, lm, weight, bias, symbols, ranges, termination_symbol, boundary, rnnt_type)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction)


def pruned_joiner_arcs(
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    ranges: Tensor | None,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """Return the arcs of the logits tanh(am + lm) weight^T + bias at the label positions of `ranges`, log 0 elsewhere.

    Args:
        am: (B, T, D) encoder frames, projected; lm: (B, S+1, D) predictor outputs, projected.
        weight: (C, D), bias: (C,) or None, the output layer.
        ranges: (B, T, R), from `get_rnnt_prune_ranges`; None for all label positions.

    Under autocast to bf16, products are of bf16 numbers with float32 sums and results; all else is float32. Raises
    ValueError if arguments do not fit.
    """
    if ranges is None:
        ranges = torch.arange(lm.shape[1], device=lm.device).expand(*am.shape[:2], -1)
    if ranges.ndim != 3 or ranges.shape[:2] != am.shape[:2]:
        raise ValueError(f"ranges must be (B, T, R) beside am (B, T, D), got {tuple(ranges.shape)}, {tuple(am.shape)}")
    _check(am, lm, weight, bias, symbols, termination_symbol, rnnt_type)
    bf16 = is_bf16_autocast(am.device.type)
    am, lm, weight, bias = widened(am, lm, weight, weight.new_zeros(len(weight)) if bias is None else bias)
    (B, T, _), S = am.shape, symbols.shape[1]
    with no_autocast(am):
        b, t, s = _nodes(ranges, checked_boundary(boundary, B, S, T, am.device))
        labels = F.pad(symbols, (0, 1), value=termination_symbol)[b, s]  # any class will do: none leaves position S
        classes = torch.stack([labels, torch.full_like(labels, termination_symbol)], dim=1)  # (M, 2)
        nodes = b * T + t, b * (S + 1) + s, classes  # rows of am and lm, flattened
        log_probs = node_log_probs(am.flatten(0, 1), lm.flatten(0, 1), weight, bias, nodes, bf16)
        # log 0 elsewhere, outside the boundary too
        nowhere = log_probs.new_full((B * (S + 1) * T,), -torch.inf)
        px, py = (nowhere.scatter(0, nodes[1] * T + t, arcs).view(B, S + 1, T) for arcs in log_probs.unbind(1))
        return finish_arcs(px[:, :-1], py, boundary, rnnt_type)


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
    """Return `rnnt_loss` of the logits tanh(am + lm) weight^T + bias of every frame with every label position.

    Arguments and errors: see `pruned_joiner_loss`.
    """
    options = boundary, rnnt_type, delay_penalty, reduction
    return pruned_joiner_loss(am, lm, weight, bias, symbols, None, termination_symbol, *options)


def _nodes(ranges: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return b, t, s, (M,) each, of the nodes of `ranges` (B, T, R) within the boundary, frame by frame."""
    s0, t0, s1, t1 = boundary[:, :, None, None].unbind(1)
    t = torch.arange(ranges.shape[1], device=ranges.device)[:, None]
    b, t, r = ((t >= t0) & (t < t1) & (ranges >= s0) & (ranges <= s1)).nonzero(as_tuple=True)
    return b, t, ranges[b, t, r]


def _check(
    am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor | None, symbols: Tensor, blank: int, rnnt_type: str
) -> None:
    fit = am.ndim == lm.ndim == 3 and weight.ndim == 2 and len(am) == len(lm) and lm.shape[1] > 0
    if not (fit and am.shape[2] == lm.shape[2] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])):
        shapes = ", ".join("None" if each is None else str(tuple(each.shape)) for each in (am, lm, weight, bias))
        raise ValueError(f"am (B, T, D), lm (B, S+1, D), weight (C, D) and bias (C,) do not fit: got {shapes}")
    check_arguments(symbols, len(am), lm.shape[1] - 1, len(weight), blank, rnnt_type)
