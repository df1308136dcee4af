"""What the transducer losses share: precision, checks of arguments, log-probabilities, the way from arcs to a loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.loss.recursion import checked_boundary, mutual_information_recursion

RNNT_TYPES = ("regular", "modified", "constrained")
REDUCTIONS = ("none", "mean", "sum")


class NotFiniteError(ValueError):
    """Utterances of a batch have logits of which no loss can be had.

    Attributes:
        rows: their indices in the batch.
    """

    def __init__(self, rows: list[int]) -> None:
        named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        which = f"utterance {named}" if len(rows) == 1 else f"utterances {named}"
        super().__init__(f"{which} of the batch: logits hold nan or inf, so there is no loss")
        self.rows = rows


def full_precision(function: Callable) -> Callable:
    """Run `function` outside autocast, with half-precision tensors turned into float32.

    Sums of thousands of log-probabilities do not survive 8 bits; float64 stays float64.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args = [_widen(value) for value in args]
        kwargs = {name: _widen(value) for name, value in kwargs.items()}
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        with torch.autocast(first.device.type if first is not None else "cpu", enabled=False):
            return function(*args, **kwargs)

    return wrapper


def _widen(value):
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def of_device(limits: dict[str, int], tensor: Tensor) -> int:
    """The limit for the tensor's kind of device; kinds that are not named take that of `cuda`."""
    return limits.get(tensor.device.type, limits["cuda"])


def check_arguments(symbols: Tensor, B: int, S: int, C: int, termination_symbol: int, rnnt_type: str) -> None:
    """Raise ValueError if symbols are not (B, S) in 0..C-1, or the blank or the type is unknown."""
    if rnnt_type not in RNNT_TYPES:
        raise ValueError(f"rnnt_type is {rnnt_type!r}; it must be one of {', '.join(RNNT_TYPES)}")
    if not 0 <= termination_symbol < C:
        raise ValueError(f"termination_symbol is {termination_symbol}; with {C} classes it must be in 0..{C - 1}")
    if symbols.shape != (B, S) or symbols.dtype != torch.int64:
        raise ValueError(f"symbols must be int64 of shape ({B}, {S}), got {symbols.dtype} {tuple(symbols.shape)}")
    if symbols.numel() and (symbols.min() < 0 or symbols.max() >= C):
        raise ValueError(f"symbols must be in 0..{C - 1}, padding included; got {symbols.min()} to {symbols.max()}")


def finish_arcs(px: Tensor, py: Tensor, boundary: Tensor | None, rnnt_type: str) -> tuple[Tensor, Tensor]:
    """From px of the T real frames (B, S, T) and py (B, S+1, T) to the arcs of `rnnt_type`.

    regular: px gets column T, and no label may follow the last frame (log 0 at end_frame). modified: as it is.
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
    px: Tensor,
    py: Tensor,
    boundary: Tensor | None,
    delay_penalty: float,
    reduction: str | None,
    return_grad: bool = False,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """Minus the log-sum over paths, reduced; with `return_grad` also (px_grad, py_grad) of that log-sum.

    `delay_penalty` rewards labels before the middle of the utterance and punishes those after it, in proportion to
    the distance in frames. An utterance without any path, as of more labels than frames that each consume one, has an
    infinite loss, as in k2.

    Raises:
      NotFiniteError: the log-sum of an utterance is nan or +inf.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
    if delay_penalty < 0:
        raise ValueError(f"delay_penalty is {delay_penalty}; it must not be negative")
    if delay_penalty > 0:
        B, S, width = px.shape
        end_frame = checked_boundary(boundary, B, S, py.shape[2], px.device)[:, 3]
        offset = (end_frame[:, None, None] - 1) / 2 - torch.arange(width, device=px.device)
        px = px + delay_penalty * offset.to(px.dtype)
    result = mutual_information_recursion(px, py, boundary, return_grad)
    total = result[0] if return_grad else result
    wrong = ~(total < torch.inf)  # nan too
    if wrong.any():
        raise NotFiniteError(wrong.nonzero()[:, 0].tolist())
    loss = -total if reduction == "none" else -getattr(total, reduction)()
    return (loss, result[1]) if return_grad else loss


class _SelectedLogProbs(torch.autograd.Function):
    """log_softmax(logits).gather(-1, index) without keeping the log_softmax; its gradient is written only once."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor):
        normalizer = logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, index, normalizer)
        return logits.gather(-1, index) - normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        logits, index, normalizer = ctx.saved_tensors
        logits_grad = (logits - normalizer).exp_().mul_(-grad.sum(-1, keepdim=True))
        return logits_grad.scatter_add_(-1, index, grad), None


def label_and_blank(logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `labels` (...) and of `blank` under softmax(logits (..., C)), each (...)."""
    index = torch.stack([labels, torch.full_like(labels, blank)], dim=-1)
    return _SelectedLogProbs.apply(logits, index).unbind(-1)
