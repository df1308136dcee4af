"""The lattice recursion on a CPU, in numba, which must be installed: `recursion.py` imports this file when it needs it.

A step is an anti-diagonal s + t = d or, where labels consume frames, a frame t = d. Its nodes do not depend on each
other and form one vector loop. Only nodes on a path from start to end are visited, so that padding, and positions
outside the windows of a pruned lattice, cost nothing.

A log-sum p is kept as phi + log v, in float64 whatever the type of the arcs, so that a node takes one exp and no log:

    phi = max(phi_x + px, phi_y + py),   v = v_of_the_larger + exp(-|difference|) * v_of_the_smaller

where x comes from the node one label below and y from the node one frame before; log v is added to phi before v can
overflow. A node also keeps the fraction of its sum that came along its x arc. The backward pass divides the occupation
of a node between its two arcs by this fraction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from residualformer.kernels.numba_tools import bits, numba_kernel, run_in_threads
from residualformer.kernels.recursion_plain import Totals

NEVER = -1e300  # log 0; finite, so that the difference of two is not nan
DEAD = -1e299  # log 0 plus some arcs lies below this
FAR = -700.0  # exp of less is 0 beside 1
FOLD_EVERY = 512  # steps, each of which at most doubles v
NODES_PER_THREAD = 20_000  # with fewer, another thread does not pay
ONE = np.uintp(1)  # only loops with unsigned indices become vector loops, as signed ones may count from the end

_SHIFT = 1.5 * 2.0**52  # the bits of x + _SHIFT end in round(x)
_LOG2E, _LN2, _LN2_REST = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
_EXPONENT, _ONE = 52, 1023 << 52  # where a float64 holds its exponent; the bits of 1.0


@numba_kernel()
def _exp(x):
    """Return exp(x), FAR <= x <= 0, to a few 1e-16; a call of math.exp would prevent a vector loop.

    x = n log 2 + r, |r| <= log(2) / 2: the Taylor series of exp(r), with n added to its exponent.
    """
    shifted = x * _LOG2E + _SHIFT
    n = shifted - _SHIFT
    r = (x - n * _LN2) - n * _LN2_REST
    y = 1 / 3628800 + r * (1 / 39916800 + r * (1 / 479001600))
    y = 1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * y))
    y = 1 / 24 + r * (1 / 120 + r * (1 / 720 + r * y))
    y = 1.0 + r * (1.0 + r * (0.5 + r * (1 / 6 + r * y)))
    return y * bits((bits(shifted) << _EXPONENT) + _ONE)


@numba_kernel()
def _arc(x):
    """Return x as float64, at least NEVER; nan stays."""
    return NEVER if x < NEVER else x * 1.0


@numba_kernel()
def _forwards(x, y, phi, v, next_phi, next_v, x_fraction, a, b, left, right):
    """Take one step from nodes a ... b to nodes left ... right of the next step, with arcs x (S,) and y (S+1,)."""
    if a >= left:
        next_phi[a], next_v[a], x_fraction[a] = phi[a] + _arc(y[a]), v[a], 0.0
    if b < right:
        next_phi[b + 1], next_v[b + 1], x_fraction[b + 1] = phi[b] + _arc(x[b]), v[b], 1.0
    # Two loops, because the compiler makes vector loops only over few arrays.
    for s in range(np.uintp(a + 1), np.uintp(b + 1)):
        next_phi[s] = phi[s - ONE] + _arc(x[s - ONE])
        x_fraction[s] = phi[s] + _arc(y[s])
    for s in range(np.uintp(a + 1), np.uintp(b + 1)):
        via_x, via_y = next_phi[s], x_fraction[s]
        less = -abs(via_x - via_y)
        z = _exp(less)
        z = 0.0 if less < FAR else z
        v_x = v[s - ONE] * (1.0 if via_x > via_y else z)
        v_y = v[s] * (z if via_x > via_y else 1.0)
        next_phi[s] = via_x if via_x > via_y else via_y
        next_v[s] = v_x + v_y
        x_fraction[s] = v_x / (v_x + v_y)


@numba_kernel()
def _backwards(px_grad, py_grad, x_fraction, occupied, flow, a, b, left, right):
    """Take a step of `_forwards` back: turn `occupied` at its end into that at its start; write that of the arcs."""
    flow[b] = 0.0
    for s in range(np.uintp(a), np.uintp(min(b + 1, right))):
        flow[s] = occupied[s + ONE] * x_fraction[s + ONE]
        px_grad[s] = flow[s]
    if a < left:
        occupied[a] = flow[a]
    for s in range(np.uintp(max(a, left)), np.uintp(b + 1)):
        along_y = occupied[s] * (1.0 - x_fraction[s])
        py_grad[s] = along_y
        occupied[s] = flow[s] + along_y
    occupied[b + 1] = 0.0


@numba_kernel()
def _row(x, y, px_grad, py_grad, S, D, with_grad):
    """Return the log-sum over paths of D steps from node 0 to node S, with arcs x (D, S) and y (D, S+1)."""
    phi, v = np.full(S + 2, NEVER), np.ones(S + 2)
    next_phi, next_v = phi.copy(), v.copy()
    x_fractions = np.empty((D + 1 if with_grad else 1, S + 1))
    low, high = np.zeros(D + 1, np.int64), np.zeros(D + 1, np.int64)
    phi[0] = 0.0
    a = b = 0
    for d in range(D):
        left, right = max(0, d + 1 - (D - S)), min(d + 1, S)  # nodes between these lie on a path to the end
        _forwards(x[d], y[d], phi, v, next_phi, next_v, x_fractions[d + 1 if with_grad else 0], a, b, left, right)
        phi, v, next_phi, next_v = next_phi, next_v, phi, v
        a, b = max(a, left), min(b + 1, right)
        while a <= b and phi[a] < DEAD:
            a += 1
        while a <= b and phi[b] < DEAD:
            b -= 1
        if a > b:
            break
        low[d + 1], high[d + 1] = a, b
        if (d + 1) % FOLD_EVERY == 0:
            for s in range(a, b + 1):
                phi[s], v[s] = phi[s] + math.log(v[s]), 1.0
    if D < S or a > b:
        return -np.inf
    if with_grad:
        occupied, flow = np.zeros(S + 2), np.empty(S + 1)
        occupied[S] = 1.0
        for d in range(D - 1, -1, -1):
            left, right = max(0, d + 1 - (D - S)), min(d + 1, S)
            _backwards(px_grad[d], py_grad[d], x_fractions[d + 1], occupied, flow, low[d], high[d], left, right)
    return phi[S] + math.log(v[S])


def _rows(x, y, px_grad, py_grad, boundary, slope, with_grad, total, first, every):
    """Compute rows first, first + every, ... of the batch; arcs (B, steps, S or S+1) by step slope * s + t."""
    for row in range(first, len(total), every):
        s0, t0, s1, t1 = boundary[row]
        S, start = s1 - s0, slope * s0 + t0
        D = slope * S + t1 - t0
        total[row] = _row(
            x[row, start : start + D, s0:s1],
            y[row, start : start + D, s0 : s1 + 1],
            px_grad[row, start : start + D, s0:s1],
            py_grad[row, start : start + D, s0 : s1 + 1],
            S,
            D,
            with_grad,
        )


@functools.cache
def _compiled_rows(dtype: torch.dtype) -> Callable:
    """Return `_rows`, compiled for arcs of `dtype`."""
    f = {torch.float32: "f4", torch.float64: "f8"}[dtype]
    arcs = ", ".join([f"{f}[:, :, :]"] * 4)
    return numba_kernel(f"void({arcs}, i8[:, :], i8, b1, {f}[:], i8, i8)")(_rows)


def _by_step(p: Tensor, slope: int) -> np.ndarray:
    """View p (B, R, C) as (B, steps, R), with (s, t) at [slope * s + t, s]; other elements must not be read."""
    array = p.detach().numpy()
    (B, R, C), (row, s, t) = array.shape, array.strides
    shape = (B, slope * max(R - 1, 0) + C, R)
    return np.lib.stride_tricks.as_strided(array, shape, (row, t, s - slope * t))


def run(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
    """Compute `recursion.lattice_recursion` for float32 or float64 tensors of any strides on the CPU.

    Up to `torch.get_num_threads()` threads divide the rows; their number does not change the result.
    """
    total, slope = px.new_empty(len(px)), px.shape[2] - py.shape[2]
    grads = (torch.zeros_like(px), torch.zeros_like(py)) if with_grad else (px, py)
    arrays = [_by_step(p, slope) for p in (px, py, *grads)]
    threads = max(1, min(torch.get_num_threads(), len(px), py.numel() // NODES_PER_THREAD))
    run_in_threads(threads, _compiled_rows(px.dtype), *arrays, boundary.numpy(), slope, with_grad, total.numpy())
    return (total, grads[0], grads[1]) if with_grad else (total, None, None)
