"""The frames of a branched LSTM on a CPU, in numba, which must be installed: `scan.py` imports this file on need.

Matrix products are torch's, one a frame for all branches. All else of a frame is one call instead of a dozen, which for
the few streams of a batch is most of the time. Letters and arguments are those of `scan_plain.py`, in float32; tensors
that are written must be contiguous.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from residualformer.kernels.numba_math import ONE, ZERO, sigmoid, tanh
from residualformer.kernels.numba_tools import numba_kernel


def forward(
    gates: Tensor, weight: Tensor, decisions: Tensor, own: Tensor, tanh_c: Tensor, hs: Tensor, cs: Tensor
) -> None:
    """Run all frames, with eq. 2 after each; see `scan_plain.forward`."""
    stacked = weight.flatten(0, 1).t()  # (H, B * 4 H)
    products = hs.new_empty(hs.size(1), stacked.size(1))
    arrays = [each.numpy() for each in (products, gates, decisions.contiguous(), own, tanh_c, hs, cs)]
    for t, h in enumerate(hs[:-1].unbind()):
        _product(h, stacked, products)
        _forwards(t, *arrays)


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
    """Return the gradient of the gates before their non-linearities; see `scan_plain.backward`."""
    stacked = weight.flatten(0, 1)  # (B * 4 H, H)
    grad = torch.empty_like(gates)
    own = tanh_c.new_empty(0, 0, 0, 0) if own_grad is None else own_grad.contiguous()
    rows, products = dhs.new_empty(dhs.size(1), len(stacked)), torch.empty_like(dhs[0])
    arrays = [each.numpy() for each in (gates, decisions.contiguous(), tanh_c, cs, own, dhs, dcs, grad, rows)]
    for t, dh in reversed(list(enumerate(dhs[:-1].unbind()))):
        _backwards(t, *arrays)
        _product(rows, stacked, products)
        dh += products
    return grad


def _product(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Write x times matrix, computed in the type of the latter, to `out`."""
    if matrix.dtype == out.dtype:
        torch.mm(x, matrix, out=out)
    else:
        out.copy_(torch.mm(x.to(matrix.dtype), matrix))


# The compiler makes vector loops only over few arrays; hence several loops for what could be one.


@numba_kernel(
    "void(i8, f4[:, ::1], f4[:, :, :, ::1], f4[:, :, :, ::1], f4[:, :, :, ::1], f4[:, :, :, ::1], f4[:, :, ::1],"
    " f4[:, :, ::1])"
)
def _forwards(t, products, gates, decisions, own, tanh_c, hs, cs):
    """Run frame t; `products` (N, B * 4 H) are those of h with the weights of all branches."""
    B, N, H = len(gates), len(products), hs.shape[2]
    for n in range(N):
        c, h_next, c_next = cs[t, n], hs[t + 1, n], cs[t + 1, n]
        h_next[:], c_next[:] = ZERO, ZERO
        for b in range(B):
            z, p, d = gates[b, t, n], products[n, b * 4 * H : (b + 1) * 4 * H], decisions[b, t, n, 0]
            for k in range(np.uintp(4 * H)):
                z[k] += p[k]
            i, f, g, o = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
            for k in range(np.uintp(H)):
                i[k] = sigmoid(i[k])
            for k in range(np.uintp(H)):
                f[k] = sigmoid(f[k])
            for k in range(np.uintp(H)):
                g[k] = tanh(g[k])
            for k in range(np.uintp(H)):
                o[k] = sigmoid(o[k])
            h, y = own[b, t, n], tanh_c[b, t, n]
            for k in range(np.uintp(H)):
                h[k] = f[k] * c[k] + i[k] * g[k]  # c of the branch, for a moment
            for k in range(np.uintp(H)):
                c_next[k] += d * h[k]  # eq. 2
            for k in range(np.uintp(H)):
                y[k] = tanh(h[k])
            for k in range(np.uintp(H)):
                h[k] = o[k] * y[k]
            for k in range(np.uintp(H)):
                h_next[k] += d * h[k]  # eq. 2


@numba_kernel(
    "void(i8, f4[:, :, :, ::1], f4[:, :, :, ::1], f4[:, :, :, ::1], f4[:, :, ::1], f4[:, :, :, ::1], f4[:, :, ::1],"
    " f4[:, :, ::1], f4[:, :, :, ::1], f4[:, ::1])"
)
def _backwards(t, gates, decisions, tanh_c, cs, own_grad, dhs, dcs, grad, rows):
    """Run frame t back: write the gradients of its gates to `grad` and `rows` (N, B * 4 H), and complete dcs[t]."""
    B, N, H = len(gates), len(rows), cs.shape[2]
    for n in range(N):
        c, dh_next, dc_next, dc_before = cs[t, n], dhs[t + 1, n], dcs[t + 1, n], dcs[t, n]
        dc_before[:] = ZERO
        for b in range(B):
            z, y, d = gates[b, t, n], tanh_c[b, t, n], decisions[b, t, n, 0]
            i, f, g, o = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
            row = rows[n, b * 4 * H : (b + 1) * 4 * H]
            di, df, dg, do = row[:H], row[H : 2 * H], row[2 * H : 3 * H], row[3 * H :]
            for k in range(np.uintp(H)):
                do[k] = d * dh_next[k]  # of h, for a moment
            if len(own_grad):
                more = own_grad[b, t, n]
                for k in range(np.uintp(H)):
                    do[k] += more[k]
            for k in range(np.uintp(H)):
                dg[k] = d * dc_next[k] + do[k] * o[k] * (ONE - y[k] * y[k])  # of c, for a moment
            for k in range(np.uintp(H)):
                do[k] *= y[k] * o[k] * (ONE - o[k])
            for k in range(np.uintp(H)):
                dc_before[k] += dg[k] * f[k]
            for k in range(np.uintp(H)):
                df[k] = dg[k] * c[k] * f[k] * (ONE - f[k])
            for k in range(np.uintp(H)):
                di[k] = dg[k] * g[k] * i[k] * (ONE - i[k])
            for k in range(np.uintp(H)):
                dg[k] *= i[k] * (ONE - g[k] * g[k])
            grad[b, t, n, :] = row
