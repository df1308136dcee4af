"""The pruned transducer loss: the joiner runs only on the few label positions that matter at each frame.

Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training", 2022, section 3.2; names, arguments and
conventions as in k2. R is the prune range s_range. Arguments that are not described here: see the top of `simple.py`.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from residualformer.kernels.precision import full_precision
from residualformer.loss.arcs import check_arguments, finish_arcs, label_and_blank, loss_of_arcs
from residualformer.loss.recursion import checked_boundary


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor | None, s_range: int) -> Tensor:
    """Return the label positions to keep at each frame, (B, T, R): R = min(s_range, S+1) consecutive ones.

    Each window holds the most occupation that its frame allows. The first position starts at 0, never falls and rises
    by at most R-1 from frame to frame (1 if labels consume frames), so that no label is skipped; the last frame reaches
    end_symbol. An s_range too narrow for an utterance with many labels and few frames is widened, with a warning.
    px_grad and py_grad are the occupation of the arcs, from a simple loss with `return_grad=True`. Raises ValueError if
    their shapes do not fit, or s_range is too small for any path.
    """
    B, S, width = px_grad.shape
    T = py_grad.shape[2]
    if py_grad.shape != (B, S + 1, T) or width not in (T, T + 1):
        raise ValueError(f"px_grad and py_grad do not fit: got {tuple(px_grad.shape)} and {tuple(py_grad.shape)}")
    regular = width == T + 1
    if s_range < 1 + regular:
        raise ValueError(f"s_range is {s_range}; with fewer than {1 + regular} label positions no path survives")
    *_, s1, t1 = checked_boundary(boundary, B, S, T, px_grad.device).unbind(1)
    if regular:
        needed = int(((s1 - 1).clamp(min=0) // t1.clamp(min=1)).max()) + 2
        if s_range < needed:
            message = f"s_range {s_range} is widened to {needed}: an utterance has many labels for its frames"
            warnings.warn(message, stacklevel=2)
            s_range = needed
    R = min(s_range, S + 1)

    # Occupation that leaves a window's positions by blanks, minus the inflow from the label below the window.
    inflow = F.pad(px_grad, (0, 0, 1, 0))[:, : S + 2 - R, :T]
    starts = (py_grad.unfold(1, R, 1).sum(-1) - inflow).argmax(1)  # (B, T)
    frames = torch.arange(T, device=starts.device)
    starts = torch.where(frames < t1[:, None] - 1, starts, (s1[:, None] + 1 - R).clamp(min=0))
    starts = _reachable(starts, R - 1 if regular else 1)
    return starts[:, :, None] + torch.arange(R, device=starts.device)


def _reachable(starts: Tensor, step: int) -> Tensor:
    """Move `starts` (B, T), as little as k2 does, to begin at 0, never fall and never rise by more than `step`."""
    ramp = step * torch.arange(starts.shape[1], device=starts.device)
    starts = starts.flip(1).cummin(1).values.flip(1)
    starts = (starts - ramp).flip(1).cummax(1).values.flip(1) + ramp  # a later start must be in reach
    return torch.minimum(starts, ramp)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Return am (B, T, D) and lm (B, S+1, P) at the positions of ranges (B, T, R): (B, T, R, D) and (B, T, R, P).

    The first is a view of am.
    """
    B, T, R = ranges.shape
    if am.ndim != 3 or lm.ndim != 3 or am.shape[:2] != (B, T) or lm.shape[0] != B:
        raise ValueError(
            f"am (B, T, D), lm (B, S+1, P) and ranges (B, T, R) do not fit: got {tuple(am.shape)}, "
            f"{tuple(lm.shape)} and {tuple(ranges.shape)}"
        )
    rows = ranges + lm.shape[1] * torch.arange(B, device=lm.device)[:, None, None]
    lm_pruned = lm.flatten(0, 1).index_select(0, rows.flatten()).view(B, T, R, lm.shape[2])
    return am[:, :, None].expand(-1, -1, R, -1), lm_pruned


@full_precision
def get_rnnt_logprobs_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """Return the arcs of softmax(logits (B, T, R, C)) at the positions of ranges (B, T, R), log 0 elsewhere.

    Shapes: as in `get_rnnt_logprobs`.
    """
    if logits.ndim != 4 or ranges.shape != logits.shape[:3] or symbols.ndim != 2:
        raise ValueError(
            f"logits (B, T, R, C), symbols (B, S) and ranges (B, T, R) do not fit: got {tuple(logits.shape)}, "
            f"{tuple(symbols.shape)} and {tuple(ranges.shape)}"
        )
    (B, T, R, C), S = logits.shape, symbols.shape[1]
    check_arguments(symbols, B, S, C, termination_symbol, rnnt_type)
    with_end = F.pad(symbols, (0, 1), value=termination_symbol)  # any class will do: no label leaves position S
    labels = with_end.gather(1, ranges.flatten(1)).view(B, T, R)
    px, py = label_and_blank(logits, labels, termination_symbol)
    nowhere = logits.new_full((B, T, S + 1), -torch.inf)
    px, py = nowhere.scatter(2, ranges, px)[:, :, :S], nowhere.scatter(2, ranges, py)
    return finish_arcs(px.transpose(1, 2), py.transpose(1, 2), boundary, rnnt_type)


@full_precision
def rnnt_loss_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    use_hat_loss: bool = False,
) -> Tensor:
    """Return the transducer loss over the paths within ranges (B, T, R), of unnormalized logits (B, T, R, C).

    With `use_hat_loss` the blank, which must be class 0 as in k2, is a Bernoulli trial of its own and the labels share
    the rest (Variani et al., "Hybrid Autoregressive Transducer", 2020).
    """
    if use_hat_loss:
        if termination_symbol != 0:
            raise ValueError(f"the HAT loss needs the blank as class 0, got termination_symbol {termination_symbol}")
        logits = _hat_logprobs(logits)
    px, py = get_rnnt_logprobs_pruned(logits, symbols, ranges, termination_symbol, boundary, rnnt_type)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction)


def _hat_logprobs(logits: Tensor) -> Tensor:
    """Return the log-probabilities of logits (..., C): a sigmoid for class 0, a softmax of the others for the rest."""
    blank, labels = logits[..., :1], logits[..., 1:]
    return torch.cat([F.logsigmoid(blank), labels.log_softmax(-1) + F.logsigmoid(-blank)], dim=-1)
