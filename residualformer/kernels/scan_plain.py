"""The reference of the frames of a branched LSTM, forward and backward: plain PyTorch, for any device.

Letters: B branches, N streams, T frames, H outputs; the gates are i, f, g, o.
"""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels import operators


def forward(
    gates: Tensor, weight: Tensor, decisions: Tensor, own: Tensor, tanh_c: Tensor, hs: Tensor, cs: Tensor
) -> None:
    """Run all frames, with eq. 2 after each.

    Args:
        gates: (B, T, N, 4 H), products with the input; become the gates after their non-linearities.
        weight: (B, 4 H, H); decisions: (B, T, N, 1).
        own, tanh_c: (B, T, N, H), written: h and tanh c of every branch.
        hs, cs: (T + 1, N, H), the combined states before the first frame; written: those after each.
    """
    dim = hs.size(2)
    transposed = weight.transpose(1, 2)
    c_own, product = torch.empty_like(own[:, 0]), torch.empty_like(own[:, 0])
    for t in range(gates.size(1)):
        z, d, h_own, tanh = gates[:, t], decisions[:, t], own[:, t], tanh_c[:, t]
        _add_products(z, hs[t], transposed)
        z[..., : 2 * dim].sigmoid_()
        z[..., 2 * dim : 3 * dim].tanh_()
        z[..., 3 * dim :].sigmoid_()
        i, f, g, o = z.chunk(4, dim=2)
        torch.mul(f, cs[t], out=c_own).addcmul_(i, g)
        torch.tanh(c_own, out=tanh)
        torch.mul(o, tanh, out=h_own)
        torch.sum(torch.mul(d, h_own, out=product), 0, out=hs[t + 1])  # eq. 2
        torch.sum(torch.mul(d, c_own, out=product), 0, out=cs[t + 1])


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
    """Return the gradient of the gates before their non-linearities, (B, T, N, 4 H), from what `forward` has written.

    Args:
        own_grad: (B, T, N, H), of each branch's h, or None.
        dhs, dcs: (T + 1, N, H), the gradients of the combined states as far as they come from outside; completed.
    """
    dim = dhs.size(2)
    f, o = gates[..., dim : 2 * dim], gates[..., 3 * dim :]
    grad = _local_gradients(gates, tanh_c, cs)
    through = operators.tanh_backward(o, tanh_c, torch.empty_like(tanh_c))  # from h to c of a branch
    for t in reversed(range(gates.size(1))):
        d, z = decisions[:, t], grad[:, t]
        dh = d * dhs[t + 1]
        if own_grad is not None:
            dh += own_grad[:, t]
        dc = (d * dcs[t + 1]).addcmul_(dh, through[:, t])
        z[..., : 3 * dim].unflatten(2, (3, dim)).mul_(dc.unsqueeze(2))
        z[..., 3 * dim :].mul_(dh)
        torch.sum(dc.mul_(f[:, t]), 0, out=dcs[t])
        add_sum_of_products(dhs[t], z, weight)
    return grad


def _add_products(total: Tensor, h: Tensor, transposed: Tensor) -> None:
    """Add h (N, H) times transposed (B, H, M), in the type of the latter, to total (B, N, M)."""
    h = h.to(transposed.dtype).expand(len(transposed), -1, -1)
    if transposed.dtype == total.dtype:
        total.baddbmm_(h, transposed)
    else:
        total += torch.bmm(h, transposed)


def add_sum_of_products(total: Tensor, z: Tensor, weight: Tensor) -> None:
    """Add the sum over B of z (B, N, M) times weight (B, M, H), in the type of the latter, to total (N, H)."""
    for part, matrix in zip(z.to(weight.dtype), weight, strict=True):
        if matrix.dtype == total.dtype:
            total.addmm_(part, matrix)
        else:
            total += part @ matrix


def _local_gradients(gates: Tensor, tanh_c: Tensor, cs: Tensor) -> Tensor:
    """Return d c / d (pre-activation) for i, f, g and d h / d (pre-activation) for o of all frames: (B, T, N, 4 H)."""
    i, f, g, o = gates.chunk(4, dim=3)
    grad = torch.empty_like(gates)
    di, df, dg, do = grad.chunk(4, dim=3)
    operators.sigmoid_backward(g, i, out=di)
    operators.sigmoid_backward(cs[:-1].expand_as(f), f, out=df)
    operators.tanh_backward(i, g, out=dg)
    operators.sigmoid_backward(tanh_c, o, out=do)
    return grad
