"""The reference of the lattice recursion: plain PyTorch, for any device and floating-point type.

Letters: B batch, S labels, T frames. The recursion and its source: `loss/recursion.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

Totals = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, None, None]  # log-sums (B,), px_grad and py_grad


def run(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
    """Return the log-sum over paths (B,), and px_grad and py_grad; see `recursion.lattice_recursion`.

    The recursion runs from the start and, in the same loop as further batch rows, from the end.
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
    """Return p (S+1, T+1, M) of every node, for paths that start at (0, 0); px (S, T+1 or T, M), py (S+1, T, M).

    Nodes of one step d = slope * s + t do not depend on each other. The arrays are skewed so that a step is one
    contiguous slice, whose slot i holds label position i - 1 (slot 0 stays at log 0).
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
    """Return a view (rows, cols, M) of (steps, slots, M): element (s, t) is step slope * s + t, slot first_slot + s."""
    step, slot, inner = steps.stride()
    return steps.as_strided((rows, cols, steps.shape[2]), (slope * step + slot, step, inner), first_slot * slot)


def _pick(p: Tensor, row: Tensor, col: Tensor, step: int = 1) -> Tensor:
    """Read p (B, R, C) from (row[b], col[b]) on, in steps of 1 or -1: (R, C, B).

    Element (i, j, b) is p[b, row[b] + step*i, col[b] + step*j]. Positions outside p are moved to its edge: no path
    from the start to the end visits what they fetch.
    """
    B, R, C = p.shape
    b = torch.arange(B, device=p.device)
    rows = (row + step * torch.arange(R, device=p.device)[:, None]).clamp_(0, max(R - 1, 0))
    cols = (col + step * torch.arange(C, device=p.device)[:, None]).clamp_(0, max(C - 1, 0))
    return p[b, rows[:, None], cols[None]]


def _inside(boundary: Tensor, p: Tensor) -> Tensor:
    """Return the mask of the nodes of p (B, S+1, T+1) that lie within the boundary."""
    s, t = (torch.arange(size, device=p.device) for size in p.shape[1:])
    s0, t0, s1, t1 = boundary[:, :, None].unbind(1)
    return ((s >= s0) & (s <= s1))[:, :, None] & ((t >= t0) & (t <= t1))[:, None, :]
