"""The arcs of the lattice, from logits to px and py, and from these to a loss; all transducer losses share this.

Letters, shapes and common arguments: see `simple.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.loss.recursion import (
    WithGrads,
    are_trusted,
    checked_boundary,
    total_and_grads,
    trusted_values,
)

RNNT_TYPES = ("regular", "modified", "constrained")
REDUCTIONS = ("none", "mean", "sum")

Loss = Tensor | WithGrads


class NotFiniteError(ValueError):
    """The logits of the utterances `rows` of the batch hold nan or inf, so that these have no loss."""

    def __init__(self, rows: list[int]) -> None:
        named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        which = f"utterance {named}" if len(rows) == 1 else f"utterances {named}"
        super().__init__(f"{which} of the batch: logits hold nan or inf, so there is no loss")
        self.rows = rows


def check_arguments(symbols: Tensor, B: int, S: int, C: int, termination_symbol: int, rnnt_type: str) -> None:
    """Raise ValueError if symbols are not (B, S) in 0..C-1, or the blank or the type is unknown."""
    if rnnt_type not in RNNT_TYPES:
        raise ValueError(f"rnnt_type is {rnnt_type!r}; it must be one of {', '.join(RNNT_TYPES)}")
    if not 0 <= termination_symbol < C:
        raise ValueError(f"termination_symbol is {termination_symbol}; with {C} classes it must be in 0..{C - 1}")
    if symbols.shape != (B, S) or symbols.dtype != torch.int64:
        raise ValueError(f"symbols must be int64 of shape ({B}, {S}), got {symbols.dtype} {tuple(symbols.shape)}")
    if not are_trusted() and ((symbols < 0) | (symbols >= C)).any():
        raise ValueError(f"symbols must be in 0..{C - 1}, padding included; got {symbols.min()} to {symbols.max()}")


@contextmanager
def checked_arguments(
    symbols: Tensor,
    boundary: Tensor | None,
    T: int,
    sizes: tuple[int, int, int],
    termination_symbol: int,
    rnnt_type: str,
) -> Iterator[Tensor]:
    """Check symbols and boundary, at whose values a loss looks no more within the context; give the checked boundary.

    The host waits for a GPU once at most. Raises ValueError as `check_arguments` and `checked_boundary` do.

    Args:
        sizes: B, S and C.
    """
    B, S, C = sizes

    def check() -> Tensor:
        check_arguments(symbols, B, S, C, termination_symbol, rnnt_type)
        return checked_boundary(boundary, B, S, T, symbols.device)

    with trusted_values():
        checked = check()
    if not are_trusted():
        begin, end = checked.split(2, dim=1)
        wrong = symbols < 0, symbols >= C, begin < 0, begin > end, end[:, 0] > S, end[:, 1] > T
        if torch.cat([each.flatten() for each in wrong]).any():
            check()
    with trusted_values():
        yield checked


def finish_arcs(px: Tensor, py: Tensor, boundary: Tensor | None, rnnt_type: str) -> tuple[Tensor, Tensor]:
    """Turn px (B, S, T) and py (B, S+1, T) of the T frames into the arcs of `rnnt_type`.

    regular: px gets a column T, and no label may follow the last frame (log 0 at end_frame). modified: unchanged.
    constrained: a label consumes a frame and pays for the blank of the next label position on that frame.
    """
    if rnnt_type == "constrained":
        return px + py[:, 1:], py
    if rnnt_type == "regular":
        px = torch.nn.functional.pad(px, (0, 1), value=-torch.inf)
        if boundary is not None:
            B, S, T = px.shape[0], px.shape[1], py.shape[2]
            end_frame = checked_boundary(boundary, B, S, T, px.device)[:, 3]
            px = px.scatter(2, end_frame[:, None, None].expand(B, S, 1), -torch.inf)
    return px, py


def loss_of_arcs(
    px: Tensor, py: Tensor, boundary: Tensor | None, delay_penalty: float, reduction: str | None
) -> Tensor:
    """Return minus the log-sum over paths, reduced (`none` (B,), `mean` or `sum`).

    `delay_penalty` rewards labels before the middle of the utterance and punishes those after it, per frame of
    distance. An utterance without any path, such as one with more labels than frames where each label consumes a frame,
    has an infinite loss, as in k2. Raises NotFiniteError if the log-sum of an utterance is nan or +inf.
    """
    loss = loss_with_grads(px, py, boundary, delay_penalty, reduction, return_grad=False)
    assert isinstance(loss, Tensor)
    return loss


def loss_with_grads(
    px: Tensor, py: Tensor, boundary: Tensor | None, delay_penalty: float, reduction: str | None, return_grad: bool
) -> Loss:
    """Return `loss_of_arcs`, or with `return_grad` (loss, (px_grad, py_grad)), the gradients being the log-sum's."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
    if delay_penalty < 0:
        raise ValueError(f"delay_penalty is {delay_penalty}; it must not be negative")
    if delay_penalty > 0:
        B, S, width = px.shape
        end_frame = checked_boundary(boundary, B, S, py.shape[2], px.device)[:, 3]
        offset = (end_frame[:, None, None] - 1) / 2 - torch.arange(width, device=px.device)
        px = px + delay_penalty * offset.to(px.dtype)
    total, grads = total_and_grads(px, py, boundary, return_grad)
    finite = total < torch.inf  # and no nan
    if not finite.all():
        raise NotFiniteError((~finite).nonzero()[:, 0].tolist())
    loss = -total if reduction == "none" else -getattr(total, reduction)()
    return loss if grads is None else (loss, grads)


class _SelectedLogProbs(torch.autograd.Function):
    """log_softmax(logits).gather(-1, index) without keeping the log_softmax, and with a gradient written only once."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor) -> Tensor:
        normalizer = logits.logsumexp(-1, keepdim=True)
        # Where any class has an infinite logit there are no probabilities: nan, even of others that would get log 0.
        normalizer = normalizer.masked_fill(normalizer == torch.inf, torch.nan)
        ctx.save_for_backward(logits, index, normalizer)
        return logits.gather(-1, index) - normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, index, normalizer = ctx.saved_tensors
        logits_grad = (logits - normalizer).exp_().mul_(-grad.sum(-1, keepdim=True))
        return logits_grad.scatter_add_(-1, index, grad), None


def label_and_blank(logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of `labels` (...) and of `blank` under softmax(logits (..., C)), each (...)."""
    index = torch.stack([labels, torch.full_like(labels, blank)], dim=-1)
    return _SelectedLogProbs.apply(logits, index).unbind(-1)
