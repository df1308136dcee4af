"""The recurrent loop of an AmRNN layer: branches that share their states (AmNets, eq. 2).

Letters: B branches, N streams, T frames, H outputs; gates and states are those of `kernels.recurrent`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels import operators
from residualformer.kernels.precision import no_autocast
from residualformer.kernels.recurrent import State, cell


def scan(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Run B branches in step: at each frame all start from the same state, and eq. 2 combines what they make of it.

    Under autocast the products are done in its type; states and gates stay as they are given. LSTM has a backward pass
    of its own.

    Args:
        kind: `lstm` or `gru`.
        gates: (B, T * N, gates * H), each branch's product with its input, bias included. LSTM overwrites it.
        weight: (B, gates * H, H), recurrent.
        decisions: (B, T, N), d_t(n); those of frame t combine the states of frame t.
        state: before the first frame.

    Returns:
        h of every branch (B, T, N, H), combined h (T, N, H), and the last combined state.
    """
    device = gates.device.type
    if torch.is_autocast_enabled(device):
        weight = weight.to(torch.get_autocast_dtype(device))
    with no_autocast(gates):
        if kind == "gru":
            return plain_scan(kind, gates, weight, decisions, state)
        own, h, c, _ = _LSTM.apply(gates, weight, decisions.to(gates.dtype).unsqueeze(3), *state)
        return own, h, (h[-1], c)


def plain_scan(
    kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, state: State
) -> tuple[Tensor, Tensor, State]:
    """Compute `scan` by PyTorch's operators, frame by frame."""
    gates = gates.unflatten(1, decisions.shape[1:])
    decisions = decisions.to(gates.dtype).unsqueeze(3)
    transposed, branches = weight.transpose(1, 2), len(weight)
    own, combined = [], []
    for gates_t, decisions_t in zip(gates.unbind(1), decisions.unbind(1), strict=True):
        h = state[0].to(weight.dtype).expand(branches, -1, -1)
        made = cell(kind, gates_t, torch.bmm(h, transposed).to(gates_t.dtype), state)  # each (B, N, H)
        state = tuple((decisions_t * part).sum(0) for part in made)  # eq. 2
        own.append(made[0])
        combined.append(state[0])
    return torch.stack(own, dim=1), torch.stack(combined), state


class _LSTM(torch.autograd.Function):
    """`scan` for LSTM, whose backward pass has one product with the weights per frame, and one for all at the end."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, decisions: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """decisions (B, T, N, 1). Gives own h (B, T, N, H), h (T, N, H), the last c (N, H), gates (B, T * N, 4 H)."""
        (branches, size, _, _), dim = decisions.shape, h.size(1)
        own, tanh_c = gates.new_empty(2, branches, size, len(h), dim)
        hs, cs = gates.new_empty(2, size + 1, len(h), dim)  # combined: before the first frame and after each
        hs[0], cs[0] = h, c
        transposed = weight.transpose(1, 2)
        unflat = gates.unflatten(1, (size, len(h)))
        c_own, product = torch.empty_like(own[:, 0]), torch.empty_like(own[:, 0])
        for t in range(size):
            z, d, h_own, tanh = unflat[:, t], decisions[:, t], own[:, t], tanh_c[:, t]
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
        ctx.mark_dirty(gates)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gates, weight, decisions, own, tanh_c, hs, cs)
        return own, hs[1:].clone(), cs[-1].clone(), gates

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, own_grad: Tensor | None, h_grad: Tensor | None, c_grad: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gates, weight, decisions, own, tanh_c, hs, cs = ctx.saved_tensors
        gates = gates.unflatten(1, decisions.shape[1:3])
        i, f, g, o = gates.chunk(4, dim=3)
        grad = _local_gradients(gates, tanh_c, cs)
        through = operators.tanh_backward(o, tanh_c, torch.empty_like(tanh_c))  # from h to c of a branch
        dhs, dcs = gates.new_zeros(2, *hs.shape)  # of the combined h and c before the first frame and after each
        if h_grad is not None:
            dhs[1:] = h_grad
        if c_grad is not None:
            dcs[-1] = c_grad
        dim = hs.size(2)
        for t in reversed(range(gates.size(1))):
            d, z = decisions[:, t], grad[:, t]
            dh = d * dhs[t + 1]
            if own_grad is not None:
                dh += own_grad[:, t]
            dc = (d * dcs[t + 1]).addcmul_(dh, through[:, t])
            z[..., : 3 * dim].unflatten(2, (3, dim)).mul_(dc.unsqueeze(2))
            z[..., 3 * dim :].mul_(dh)
            torch.sum(dc.mul_(f[:, t]), 0, out=dcs[t])
            _add_sum_of_products(dhs[t], z, weight)
        before = hs[:-1].flatten(0, 1).to(weight.dtype).expand(len(weight), -1, -1)
        d_weight = torch.bmm(grad.flatten(1, 2).transpose(1, 2).to(weight.dtype), before)
        d_decisions = None
        if ctx.needs_input_grad[2]:
            d_decisions = (dhs[1:] * own + dcs[1:] * (f * cs[:-1] + i * g)).sum(3, keepdim=True)
        return grad.flatten(1, 2), d_weight, d_decisions, dhs[0], dcs[0]


def _add_products(total: Tensor, h: Tensor, transposed: Tensor) -> None:
    """Add h (N, H) times transposed (B, H, M), in the type of the latter, to total (B, N, M)."""
    h = h.to(transposed.dtype).expand(len(transposed), -1, -1)
    if transposed.dtype == total.dtype:
        total.baddbmm_(h, transposed)
    else:
        total += torch.bmm(h, transposed)


def _add_sum_of_products(total: Tensor, z: Tensor, weight: Tensor) -> None:
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
