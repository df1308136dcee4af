"""The lattice recursion on CUDA, in Triton, which must be installed: `recursion.py` imports this file when it needs it.

Steps, nodes and fractions are those of `recursion_numba.py`, with a program per utterance and a lane per label
position. Log-sums are float64, of which a node takes two additions and two comparisons; exp, log and the backward pass
are float32.

It has run in Triton's interpreter, where it is right to the rounding of float32, and compiles for sm_80 and sm_90. No
GPU has run it: its speed is unknown, and so is whether threads, which the interpreter runs in order, race.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from residualformer.kernels.recursion_plain import Totals
from residualformer.kernels.triton_tools import check, launch

_NEVER = tl.constexpr(-1e30)  # log 0; finite, so that the difference of two is not nan
_DEAD = tl.constexpr(-1e29)  # log 0 plus some arcs lies below this


@triton.jit
def _arc(pointer, exists):
    p = tl.load(pointer, mask=exists, other=_NEVER).to(tl.float64)
    return tl.where(p < _NEVER, _NEVER, p)  # nan stays


@triton.jit
def _recursion(
    px, py, px_grad, py_grad, boundary, total, x_fractions,
    px_row, px_s, px_t, py_row, py_s, py_t,
    gx_row, gx_s, gx_t, gy_row, gy_s, gy_t, x_fractions_row,
    SLOPE: tl.constexpr, WITH_GRAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    s0, t0 = tl.load(boundary + 4 * row), tl.load(boundary + 4 * row + 1)
    S, T = tl.load(boundary + 4 * row + 2) - s0, tl.load(boundary + 4 * row + 3) - t0
    D = SLOPE * S + T
    lane = tl.arange(0, BLOCK)  # the label position of a node, less s0
    s = lane.to(tl.int64)
    below, above = tl.maximum(lane - 1, 0), tl.minimum(lane + 1, BLOCK - 1)
    # The arcs into the nodes of step 1; those into the next step are one frame later.
    px += row * px_row + (s0 + s - 1) * px_s + (t0 - SLOPE * (s - 1)) * px_t
    py += row * py_row + (s0 + s) * py_s + (t0 - SLOPE * s) * py_t
    x_fractions += row * x_fractions_row + s

    p = tl.where(lane == 0, 0.0, _NEVER).to(tl.float64)
    for d in range(D):
        node = (s >= d + 1 - (D - S)) & (s <= d + 1) & (s <= S)  # those of step d + 1
        via_x = tl.gather(p, below, 0) + _arc(px + d * px_t, node & (s > 0))
        via_y = p + _arc(py + d * py_t, node & (s <= d))
        more_x = via_x > via_y
        difference = (via_x - via_y).to(tl.float32)
        z = tl.exp(-tl.abs(difference))
        p = tl.where(more_x, via_x, via_y) + tl.log(1.0 + z).to(tl.float64)
        p = tl.where(node, p, _NEVER)
        if WITH_GRAD:
            tl.store(x_fractions + d * BLOCK, tl.where(more_x, 1.0, z) / (1.0 + z), mask=node)
    result = tl.sum(tl.where(s == S, p, 0.0), 0)
    tl.store(total + row, tl.where(result < _DEAD, float("-inf"), result))

    if WITH_GRAD:
        tl.debug_barrier()  # threads read what others have stored
        px_grad += row * gx_row + (s0 + s - 1) * gx_s + (t0 - SLOPE * (s - 1)) * gx_t
        py_grad += row * gy_row + (s0 + s) * gy_s + (t0 - SLOPE * s) * gy_t
        occupied = tl.where((s == S) & (p >= _DEAD), 1.0, 0.0)
        for i in range(D):
            d = D - 1 - i
            node = (s >= d + 1 - (D - S)) & (s <= d + 1) & (s <= S)
            along_x = occupied * tl.load(x_fractions + d * BLOCK, mask=node, other=0.0)
            along_y = occupied - along_x
            tl.store(px_grad + d * gx_t, along_x, mask=node & (s > 0))
            tl.store(py_grad + d * gy_t, along_y, mask=node & (s <= d))
            occupied = along_y + tl.where(s < S, tl.gather(along_x, above, 0), 0.0)


def run(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
    """Compute `recursion.lattice_recursion` for float32 tensors of any strides on one CUDA device.

    Raises UserError for others: sums of hundreds of log-probabilities do not survive the 8 or 11 bits of bf16 and fp16.
    """
    check("the lattice recursion", px)
    (B, S1, T), slope = py.shape, px.shape[2] - py.shape[2]
    total, block = px.new_empty(B), max(32, triton.next_power_of_2(S1))
    grads = (torch.zeros_like(px), torch.zeros_like(py)) if with_grad else (px, py)
    x_fractions = px.new_empty(B if with_grad else 0, slope * (S1 - 1) + T, block)
    if B > 0:
        strides = [stride for p in (px, py, *grads) for stride in p.stride()]
        launch(
            _recursion, (B,), px,
            px, py, *grads, boundary.contiguous(), total, x_fractions, *strides, x_fractions.stride(0),
            SLOPE=slope, WITH_GRAD=with_grad, BLOCK=block, num_warps=min(8, max(1, block // 128)),
        )  # fmt: skip
    return (total, grads[0], grads[1]) if with_grad else (total, None, None)
