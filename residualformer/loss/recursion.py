"""The lattice recursion under every transducer loss: total log-probability and occupation of every arc.

Letters: B batch, S labels, T frames. A node (s, t) says that s labels are out and t frames are consumed. An x arc emits
label s, a y arc consumes frame t (blank). Graves, "Sequence Transduction with Recurrent Neural Networks", section 2.4;
names and conventions as in k2.

Three engines compute the same. `plain` (here) is the reference: PyTorch, any device and dtype. `numba` serves a CPU and
`triton` CUDA; they are taken where they can be, unless `recursion_engine` says otherwise.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.optional import is_installed, optional

log = logging.getLogger("residualformer")
MAX_LABELS = 2047  # of one utterance on `triton`: for more, `plain` has enough to do at each step
ENGINES = ("auto", "plain", "numba", "triton")
_engine: ContextVar[str] = ContextVar("recursion engine", default="auto")
_broken: set[str] = set()  # engines that failed in this process


def mutual_information_recursion(
    px: Tensor,
    py: Tensor,
    boundary: Tensor | None = None,
    return_grad: bool = False,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """Log-sum over all paths of the lattice, (B,).

        p[s0, t0] = 0,   p[s, t] = log_add(p[s-1, t'] + px[s-1, t'], p[s, t-1] + py[s, t-1]),   result p[s1, t1]

    where t' = t if a label consumes no frame (px has T+1 columns: regular), t' = t-1 if it does (T columns: modified).

    Args:
      px: (B, S, T+1) or (B, S, T), log-probability of emitting label s at node (s, t).
      py: (B, S+1, T), log-probability of consuming frame t at node (s, t).
      boundary: (B, 4) int64, rows s0, t0, s1, t1 with s0 <= s1 <= S and t0 <= t1 <= T; None means 0, 0, S, T.
      return_grad: give (result, (px_grad, py_grad)): the derivatives of result.sum(), that is, the probability
        that a path takes the arc; zero outside the boundary.

    Raises ValueError when shapes or boundary do not fit.
    """
    boundary = _boundary_of(px, py, boundary)
    with_grad = return_grad or (torch.is_grad_enabled() and (px.requires_grad or py.requires_grad))
    total, px_grad, py_grad = _Recursion.apply(px, py, boundary, with_grad)
    return (total, (px_grad, py_grad)) if return_grad else total


@contextmanager
def recursion_engine(name: str) -> Iterator[None]:
    """Within it, every loss of this thread runs on engine `name`, one of ENGINES; on `plain` all of it is PyTorch.

    Raises ValueError if there is no such engine; a loss raises UserError if its package is missing or broken.
    """
    if name not in ENGINES:
        raise ValueError(f"recursion engine is {name!r}; it must be one of {', '.join(ENGINES)}")
    token = _engine.set(name)
    try:
        yield
    finally:
        _engine.reset(token)


class _Recursion(torch.autograd.Function):
    """The gradients come with the value: the engine gives both."""

    @staticmethod
    def forward(ctx, px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool):
        total, px_grad, py_grad = _run(px.detach(), py.detach(), boundary, with_grad)
        if with_grad:
            for each in (px_grad, py_grad):  # or backward's products meet denormal numbers: a tenth of the speed
                torch.threshold_(each, torch.finfo(each.dtype).tiny ** 0.5, 0.0)
            ctx.save_for_backward(px_grad, py_grad)
            ctx.mark_non_differentiable(px_grad, py_grad)
        return total, px_grad, py_grad

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad: Tensor, *_):
        px_grad, py_grad = ctx.saved_tensors
        total_grad = total_grad[:, None, None]
        return px_grad * total_grad, py_grad * total_grad, None, None


Result = tuple[Tensor, Tensor | None, Tensor | None]


def _run(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Result:
    """The engine that is wanted, or the fastest that works: what fails once is not tried again."""
    wanted = _engine.get()
    if wanted != "auto":
        return _engine_named(wanted)(px, py, boundary, with_grad)
    name = _fastest(px)
    if name != "plain":
        try:
            return _engine_named(name)(px, py, boundary, with_grad)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # it cannot import, or not compile for this machine, in one of many ways
            _give_up(name, error)
    return plain(px, py, boundary, with_grad)


def _fastest(px: Tensor) -> str:
    if px.device.type == "cpu" and px.dtype in (torch.float32, torch.float64) and _is_usable("numba"):
        return "numba"
    if px.device.type == "cuda" and px.dtype == torch.float32 and px.shape[1] <= MAX_LABELS and _is_usable("triton"):
        return "triton"
    return "plain"


def compiled(module: str, like: Tensor) -> ModuleType | None:
    """Kernels in numba, `residualformer.kernels.<module>`, if for such tensors they are wanted and work; else None."""
    if like.device.type != "cpu" or _engine.get() not in ("auto", "numba") or not _is_usable("numba"):
        return None
    try:
        return importlib.import_module(f"residualformer.kernels.{module}")
    except Exception as error:  # as in `_run`
        _give_up("numba", error)
        return None


def _give_up(engine: str, error: Exception) -> None:
    _broken.add(engine)
    log.warning("the transducer loss goes on without %s, slower, for it failed: %s", engine, error)


def _is_usable(package: str) -> bool:
    return package not in _broken and _is_there(package)


_is_there = functools.cache(is_installed)


@functools.cache
def _engine_named(name: str) -> Callable[[Tensor, Tensor, Tensor, bool], Result]:
    if name == "plain":
        return plain
    optional(name)
    return importlib.import_module(f"residualformer.kernels.recursion_{name}").run


def plain(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Result:
    """The reference: total (B,), px_grad and py_grad (None without `with_grad`) of arcs and boundary that fit.

    It runs from the start and, in the same loop as further batch rows, from the end.
    """
    s0, t0, s1, t1 = boundary.unbind(1)
    T, advance = py.shape[2], py.shape[2] + 1 - px.shape[2]  # frames that an x arc consumes: 0 or 1
    x, y = _pick(px, s0, t0), _pick(py, s0, t0)
    if with_grad:  # the same lattice seen backwards from (s1, t1)
        x = torch.cat([x, _pick(px, s1 - 1, t1 - advance, -1)], dim=2)
        y = torch.cat([y, _pick(py, s1, t1 - 1, -1)], dim=2)
    p = _log_sums(x, y).permute(2, 0, 1)  # (B or 2B, S+1, T+1)
    total = p[torch.arange(len(px), device=px.device), s1 - s0, t1 - t0]
    if not with_grad:
        return total, None, None

    alpha = _pick(p[: len(px)], -s0, -t0).permute(2, 0, 1)
    beta = _pick(p[len(px) :], s1, t1, -1).permute(2, 0, 1)
    alpha = alpha - total[:, None, None].clamp(min=torch.finfo(px.dtype).min)  # no path at all: 0, not nan
    px_grad = (alpha[:, :-1, : T + 1 - advance] + px).add_(beta[:, 1:, advance:]).exp_()
    py_grad = (alpha[:, :, :-1] + py).add_(beta[:, :, 1:]).exp_()
    outside = ~_inside(boundary, alpha)
    px_grad.masked_fill_(outside[:, :-1, : T + 1 - advance] | outside[:, 1:, advance:], 0)
    py_grad.masked_fill_(outside[:, :, :-1] | outside[:, :, 1:], 0)
    return total, px_grad, py_grad


def _log_sums(px: Tensor, py: Tensor) -> Tensor:
    """p of every node for paths that start at (0, 0); px (S, T+1 or T, M), py (S+1, T, M) -> (S+1, T+1, M).

    Nodes of one step d = slope * s + t do not depend on each other: the arrays are skewed so that a step is one
    contiguous slice, slot i of which holds label position i - 1 (slot 0 stays at log 0).
    """
    (S, width, M), T = px.shape, py.shape[1]
    slope = width - T  # 1: anti-diagonals; 0: labels consume frames, so a step is a frame
    steps = slope * S + T
    x = px.new_full((steps, S + 1, M), -torch.inf)
    y = px.new_full((steps, S + 1, M), -torch.inf)
    p = px.new_full((steps + 1, S + 2, M), -torch.inf)
    _unskewed(x, 1, S, width, slope).copy_(px)
    _unskewed(y, 0, S + 1, T, slope).copy_(py)
    p[0, 1] = 0
    via_x, via_y = torch.empty_like(p[0, 1:]), torch.empty_like(p[0, 1:])
    below, here = p[:, :-1].unbind(0), p[:, 1:].unbind(0)
    for d, (x_d, y_d) in enumerate(zip(x.unbind(0), y.unbind(0))):
        torch.add(below[d], x_d, out=via_x)
        torch.add(here[d], y_d, out=via_y)
        torch.logaddexp(via_x, via_y, out=here[d + 1])
    return _unskewed(p, 1, S + 1, T + 1, slope)


def _unskewed(steps: Tensor, first_slot: int, rows: int, cols: int, slope: int) -> Tensor:
    """View (rows, cols, M) of (steps, slots, M): element (s, t) is step slope * s + t, slot first_slot + s."""
    step, slot, inner = steps.stride()
    return steps.as_strided((rows, cols, steps.shape[2]), (slope * step + slot, step, inner), first_slot * slot)


def _pick(p: Tensor, row: Tensor, col: Tensor, step: int = 1) -> Tensor:
    """p (B, R, C) read from (row[b], col[b]) on, step 1 or -1: p[b, row[b] + step*i, col[b] + step*j] as (R, C, B).

    Positions outside p are moved to its edge: no path from the start to the end visits what they fetch.
    """
    B, R, C = p.shape
    b = torch.arange(B, device=p.device)
    rows = (row + step * torch.arange(R, device=p.device)[:, None]).clamp_(0, max(R - 1, 0))
    cols = (col + step * torch.arange(C, device=p.device)[:, None]).clamp_(0, max(C - 1, 0))
    return p[b, rows[:, None], cols[None]]


def _inside(boundary: Tensor, p: Tensor) -> Tensor:
    """Which nodes of p (B, S+1, T+1) lie within the boundary."""
    s, t = (torch.arange(size, device=p.device) for size in p.shape[1:])
    s0, t0, s1, t1 = boundary[:, :, None].unbind(1)
    return ((s >= s0) & (s <= s1))[:, :, None] & ((t >= t0) & (t <= t1))[:, None, :]


def _boundary_of(px: Tensor, py: Tensor, boundary: Tensor | None) -> Tensor:
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


def checked_boundary(boundary: Tensor | None, B: int, S: int, T: int, device: torch.device) -> Tensor:
    """`boundary`, or (0, 0, S, T) for every row; ValueError if it has another shape or leaves the lattice."""
    if boundary is None:
        return torch.tensor([0, 0, S, T], device=device).expand(B, 4)
    if boundary.shape != (B, 4) or boundary.dtype != torch.int64:
        raise ValueError(f"boundary must be int64 of shape ({B}, 4), got {boundary.dtype} {tuple(boundary.shape)}")
    boundary = boundary.to(device)
    s0, t0, s1, t1 = boundary.unbind(1)
    wrong = (s0 < 0) | (s0 > s1) | (s1 > S) | (t0 < 0) | (t0 > t1) | (t1 > T)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"boundary row {row} is {boundary[row].tolist()}; it must hold begin_symbol <= end_symbol <= {S} "
            f"and begin_frame <= end_frame <= {T}"
        )
    return boundary
