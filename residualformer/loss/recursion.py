"""The lattice recursion under every transducer loss: total log-probability and occupation of every arc.

Graves, "Sequence Transduction with Recurrent Neural Networks", 2012, section 2.4; names and conventions as in k2.

Letters: B batch, S labels, T frames. At node (s, t), s labels have been emitted and t frames consumed. An x arc emits
label s, a y arc consumes frame t (blank).

Three engines compute the recursion: plain PyTorch (the reference, `kernels/recursion_plain.py`), numba on a CPU and
Triton on CUDA. The fastest that works is taken, unless `recursion_engine` names one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import recursion_engine
from residualformer.kernels.recursion import Totals, lattice_recursion

__all__ = ["checked_boundary", "mutual_information_recursion", "recursion_engine", "total_and_grads"]

_trusted: ContextVar[bool] = ContextVar("values of symbols and boundaries are right", default=False)

WithGrads = tuple[Tensor, tuple[Tensor, Tensor]]  # a total or a loss, and (px_grad, py_grad)


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Tensor | WithGrads:
    """Return the log-sum over all paths of the lattice, (B,).

        p[s0, t0] = 0,   p[s, t] = log_add(p[s-1, t'] + px[s-1, t'], p[s, t-1] + py[s, t-1]),   result p[s1, t1]

    where t' = t if a label consumes no frame (px has T+1 columns: regular), t' = t-1 if it does (T columns: modified).

    Args:
        px: (B, S, T+1) or (B, S, T), log-probability of emitting label s at node (s, t).
        py: (B, S+1, T), log-probability of consuming frame t at node (s, t).
        boundary: (B, 4) int64, rows s0, t0, s1, t1 with s0 <= s1 <= S and t0 <= t1 <= T; None means 0, 0, S, T.
        return_grad: return (result, (px_grad, py_grad)), with the derivatives of result.sum(): the probability that a
            path takes the arc, zero outside the boundary.
    Raises ValueError if shapes or boundary do not fit.
    """
    total, grads = total_and_grads(px, py, boundary, return_grad)
    return total if grads is None else (total, grads)


def total_and_grads(
    px: Tensor, py: Tensor, boundary: Tensor | None, return_grad: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the log-sum of `mutual_information_recursion`, and (px_grad, py_grad), or None without `return_grad`."""
    boundary = _fitting_boundary(px, py, boundary)
    with_grad = return_grad or (torch.is_grad_enabled() and (px.requires_grad or py.requires_grad))
    total, px_grad, py_grad = _Recursion.apply(px, py, boundary, with_grad)
    return total, (px_grad, py_grad) if return_grad else None


class _Recursion(torch.autograd.Function):
    """The recursion, whose forward pass computes the gradients along with the value."""

    @staticmethod
    def forward(ctx, px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
        total, px_grad, py_grad = lattice_recursion(px.detach(), py.detach(), boundary, with_grad)
        if px_grad is None or py_grad is None:
            return total, None, None
        for grad in (px_grad, py_grad):  # denormal products would make backward ten times slower
            torch.threshold_(grad, torch.finfo(grad.dtype).tiny ** 0.5, 0.0)
        ctx.save_for_backward(px_grad, py_grad)
        ctx.mark_non_differentiable(px_grad, py_grad)
        ctx.set_materialize_grads(False)  # of these two, which would be zeros
        return total, px_grad, py_grad

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if total_grad is None:
            return None, None, None, None
        px_grad, py_grad = ctx.saved_tensors
        total_grad = total_grad[:, None, None]
        return px_grad * total_grad, py_grad * total_grad, None, None


def _fitting_boundary(px: Tensor, py: Tensor, boundary: Tensor | None) -> Tensor:
    if px.ndim != 3 or py.ndim != 3:
        raise ValueError(f"px and py need 3 dimensions (B, S, T), got {tuple(px.shape)} and {tuple(py.shape)}")
    B, S, width = px.shape
    T = py.shape[2]
    if py.shape != (B, S + 1, T) or width not in (T, T + 1) or px.dtype != py.dtype:
        raise ValueError(
            f"px (B, S, T+1 or T) and py (B, S+1, T) do not fit: got {tuple(px.shape)} {px.dtype} and "
            f"{tuple(py.shape)} {py.dtype}"
        )
    return checked_boundary(boundary, B, S, T, px.device)


@contextmanager
def trusted_values() -> Iterator[None]:
    """Skip the checks of the values of symbols and boundaries within the context: the host would wait for a GPU."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def are_trusted() -> bool:
    """Return whether a context of `trusted_values` is active."""
    return _trusted.get()


def checked_boundary(boundary: Tensor | None, B: int, S: int, T: int, device: torch.device) -> Tensor:
    """Return `boundary`, or rows (0, 0, S, T) for None; raise ValueError if it is not int64 (B, 4) in the lattice."""
    if boundary is None:
        whole = torch.zeros(4, dtype=torch.int64, device=device)
        whole[2], whole[3] = S, T
        return whole.expand(B, 4)
    if boundary.shape != (B, 4) or boundary.dtype != torch.int64:
        raise ValueError(f"boundary must be int64 of shape ({B}, 4), got {boundary.dtype} {tuple(boundary.shape)}")
    boundary = boundary.to(device)
    if are_trusted():
        return boundary
    s0, t0, s1, t1 = boundary.unbind(1)
    wrong = (s0 < 0) | (s0 > s1) | (s1 > S) | (t0 < 0) | (t0 > t1) | (t1 > T)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"boundary row {row} is {boundary[row].tolist()}; it must hold begin_symbol <= end_symbol <= {S} "
            f"and begin_frame <= end_frame <= {T}"
        )
    return boundary
