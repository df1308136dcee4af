"""The frames of a branched LSTM on CUDA, in Triton, which must be installed: `scan.py` imports this file when needed.

One kernel for a frame, forward or backward, where PyTorch's operators take a dozen launches. A program has ROWS streams
and COLUMNS outputs, of which it takes all branches and gates from the product to eq. 2; backward it adds up what comes
back from the next frame, so that it too needs no other program's result of its own frame.

Why not one kernel for all frames: the recurrent weights of a layer (two branches of 1,024: 32 MB) lie in no single
multiprocessor, and programs that wait for one another at each frame cannot be tried in the interpreter. The launches
that remain allocate nothing and wait for nothing, as a CUDA graph wants them.

It has run in Triton's interpreter and compiles for sm_80 and sm_90. No GPU has run it: its speed is unknown, and the
sizes of its blocks are guesses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from residualformer.kernels.scan_plain import add_sum_of_products
from residualformer.kernels.triton_tools import check, launch, product, tanh

ROWS, COLUMNS, DEPTH = 32, 16, 16  # of a program: streams, outputs, and addends in a step of a product
OPTIONS = {"num_warps": 8, "num_stages": 2}  # with fewer, or a larger DEPTH, registers spill


@triton.jit(do_not_specialize=["t"])
def _forward_frame(
    gates, weight, decisions, own, tanh_c, hs, cs, t, T, N, H,
    BRANCHES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Run frame t from combined states hs[t] and cs[t]; arguments as those of `scan_plain.forward`."""
    n, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real, stream = (n < N)[:, None] & (j < H)[None, :], n.to(tl.int64)
    before = (t * N + stream)[:, None] * H
    after = before + N * H + j[None, :]
    c_before = tl.load(cs + before + j[None, :], mask=real, other=0.0)
    h_sum, c_sum = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for b in range(BRANCHES):
        row = (b * T + t) * N + stream
        z = gates + row[:, None] * 4 * H + j[None, :]
        i, f = tl.load(z, mask=real, other=0.0), tl.load(z + H, mask=real, other=0.0)
        g, o = tl.load(z + 2 * H, mask=real, other=0.0), tl.load(z + 3 * H, mask=real, other=0.0)
        for first in range(0, H, DEPTH):
            k = first + tl.arange(0, DEPTH)
            h = tl.load(hs + before + k[None, :], mask=(n < N)[:, None] & (k < H)[None, :], other=0.0)
            h = h.to(weight.dtype.element_ty)
            w, there = weight + (b * 4 * H + j[None, :]) * H + k[:, None], (j < H)[None, :] & (k < H)[:, None]
            i = product(h, tl.load(w, mask=there, other=0.0), i)
            f = product(h, tl.load(w + H * H, mask=there, other=0.0), f)
            g = product(h, tl.load(w + 2 * H * H, mask=there, other=0.0), g)
            o = product(h, tl.load(w + 3 * H * H, mask=there, other=0.0), o)
        i, f, g, o = tl.sigmoid(i), tl.sigmoid(f), tanh(g), tl.sigmoid(o)
        c = f * c_before + i * g
        tanh_of_c = tanh(c)
        h_own = o * tanh_of_c
        tl.store(z, i, mask=real)
        tl.store(z + H, f, mask=real)
        tl.store(z + 2 * H, g, mask=real)
        tl.store(z + 3 * H, o, mask=real)
        tl.store(own + row[:, None] * H + j[None, :], h_own, mask=real)
        tl.store(tanh_c + row[:, None] * H + j[None, :], tanh_of_c, mask=real)
        d = tl.load(decisions + row, mask=n < N, other=0.0)[:, None]
        h_sum += d * h_own  # eq. 2
        c_sum += d * c
    tl.store(hs + after, h_sum, mask=real)
    tl.store(cs + after, c_sum, mask=real)


@triton.jit(do_not_specialize=["t"])
def _backward_frame(
    gates, weight, decisions, tanh_c, cs, own_grad, dhs, dcs, grad, t, T, N, H,
    HAS_OWN: tl.constexpr,
    BRANCHES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Complete dhs[t + 1] by what `grad` of frame t + 1 returns, and write dcs[t] and `grad` of frame t."""
    n, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real, stream = (n < N)[:, None] & (j < H)[None, :], n.to(tl.int64)
    before = (t * N + stream)[:, None] * H + j[None, :]
    after = before + N * H
    dh_sum = tl.load(dhs + after, mask=real, other=0.0)
    if t + 1 < T:
        for b in range(BRANCHES):
            next_row = (b * T + t + 1) * N + stream
            for first in range(0, 4 * H, DEPTH):
                k = first + tl.arange(0, DEPTH)
                there = (n < N)[:, None] & (k < 4 * H)[None, :]
                z = tl.load(grad + next_row[:, None] * 4 * H + k[None, :], mask=there, other=0.0)
                w = weight + (b * 4 * H + k[:, None]) * H + j[None, :]
                w = tl.load(w, mask=(k < 4 * H)[:, None] & (j < H)[None, :], other=0.0)
                dh_sum = product(z.to(weight.dtype.element_ty), w, dh_sum)
        tl.store(dhs + after, dh_sum, mask=real)
    dc_sum = tl.load(dcs + after, mask=real, other=0.0)
    c_before = tl.load(cs + before, mask=real, other=0.0)
    dc_before = tl.zeros((ROWS, COLUMNS), tl.float32)
    for b in range(BRANCHES):
        row = (b * T + t) * N + stream
        own, z = row[:, None] * H + j[None, :], row[:, None] * 4 * H + j[None, :]
        i, f = tl.load(gates + z, mask=real, other=0.0), tl.load(gates + z + H, mask=real, other=0.0)
        g, o = tl.load(gates + z + 2 * H, mask=real, other=0.0), tl.load(gates + z + 3 * H, mask=real, other=0.0)
        tanh_of_c = tl.load(tanh_c + own, mask=real, other=0.0)
        d = tl.load(decisions + row, mask=n < N, other=0.0)[:, None]
        dh = d * dh_sum
        if HAS_OWN:
            dh += tl.load(own_grad + own, mask=real, other=0.0)
        dc = d * dc_sum + dh * o * (1.0 - tanh_of_c * tanh_of_c)
        tl.store(grad + z, dc * g * i * (1.0 - i), mask=real)
        tl.store(grad + z + H, dc * c_before * f * (1.0 - f), mask=real)
        tl.store(grad + z + 2 * H, dc * i * (1.0 - g * g), mask=real)
        tl.store(grad + z + 3 * H, dh * tanh_of_c * o * (1.0 - o), mask=real)
        dc_before += dc * f
    tl.store(dcs + before, dc_before, mask=real)


def forward(
    gates: Tensor, weight: Tensor, decisions: Tensor, own: Tensor, tanh_c: Tensor, hs: Tensor, cs: Tensor
) -> None:
    """Compute `scan_plain.forward` for float32 tensors, those that are written contiguous, on one CUDA device.

    `weight` may be bf16; factors of products have its type, sums are float32. Raises UserError for other tensors.
    """
    check("the scan of branches", gates)
    weight, decisions = weight.contiguous(), decisions.contiguous()
    for t in range(gates.size(1)):
        _launch(_forward_frame, gates, t, weight, decisions, own, tanh_c, hs, cs)


def backward(
    gates: Tensor,
    weight: Tensor,
    decisions: Tensor,
    tanh_c: Tensor,
    cs: Tensor,
    own_grad: Tensor | None,
    dhs: Tensor,
    dcs: Tensor,
) -> Tensor:
    """Compute `scan_plain.backward`, for tensors such as `forward` takes."""
    weight, decisions, grad = weight.contiguous(), decisions.contiguous(), torch.empty_like(gates)
    given = tanh_c if own_grad is None else own_grad.contiguous()
    for t in reversed(range(gates.size(1))):
        tensors = weight, decisions, tanh_c, cs, given, dhs, dcs, grad
        _launch(_backward_frame, gates, t, *tensors, HAS_OWN=own_grad is not None)
    if gates.size(1):
        add_sum_of_products(dhs[0], grad[:, 0], weight)
    return grad


def _launch(kernel: object, gates: Tensor, t: int, *tensors: Tensor, **constants: bool) -> None:
    branches, T, N, width = gates.shape
    H = width // 4
    blocks = dict(BRANCHES=branches, ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH)
    grid = triton.cdiv(N, ROWS), triton.cdiv(H, COLUMNS)
    launch(kernel, grid, gates, gates, *tensors, t, T, N, H, **constants, **blocks, **OPTIONS)
