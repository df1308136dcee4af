"""The recurrent loop of one layer: torch's own for one branch, and ours for branches that share their states.

Gates are stacked as torch stacks them: i, f, g, o (LSTM) or r, z, n (GRU), one bias each. A state is a tuple of (N, H):
(h, c) for LSTM, (h,) for GRU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GATES = {"lstm": 4, "gru": 3}
NUM_STATES = {"lstm": 2, "gru": 1}
State = tuple[Tensor, ...]


def fused(kind: str, x: Tensor, state: State, w_input: Tensor, w_recurrent: Tensor, bias: Tensor) -> tuple:
    """One branch through torch's own recurrent layer; a lone frame through its cell.

    On a CPU the layer re-orders its weights at each call, which for one frame takes 20 times as long as the frame does.
    Under autocast it computes in its type on a CPU, and in float32 (cuDNN: TF32) on a GPU.

    Args:
        x: (T, N, v).
        w_input, w_recurrent, bias: (gates * H, v), (gates * H, H), (gates * H,); torch's second bias is zero.

    Returns:
        h (T, N, H) and the new state.
    """
    device = x.device.type
    if _own_autocast(device):
        with torch.autocast(device, enabled=False):
            state = tuple(part.float() for part in state)
            return fused(kind, x.float(), state, *(part.float() for part in (w_input, w_recurrent, bias)))
    if len(x) == 1 and not torch.is_grad_enabled():
        new = _one_frame(kind, x[0], state, w_input, w_recurrent, bias)
        return new[0].unsqueeze(0), new
    weights = [w_input, w_recurrent, bias, torch.zeros_like(bias)]
    options = (True, 1, 0.0, torch.is_grad_enabled(), False, False)  # biases, layers, dropout, train, two ways, N first
    first = [part.unsqueeze(0).to(x.dtype) for part in state]
    if kind == "lstm":
        y, *last = torch.lstm(x, first, weights, *options)
    else:
        y, *last = torch.gru(x, first[0], weights, *options)
    return y, tuple(part.squeeze(0) for part in last)


def _own_autocast(device: str) -> bool:
    """Whether autocast is on and is not what it says for torch's recurrent layers.

    cuDNN's are fp16 under it, whatever its type, so that small gradients vanish, and refuse weights of two types.
    """
    return device != "cpu" and torch.is_autocast_enabled(device)


def _one_frame(kind: str, x: Tensor, state: State, *weights: Tensor) -> State:
    state = tuple(part.to(x.dtype) for part in state)
    return torch.lstm_cell(x, state, *weights) if kind == "lstm" else (torch.gru_cell(x, state[0], *weights),)


def scan(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """B branches in step: at each frame all start from the same state and eq. 2 combines what they make of it.

    Under autocast the products are done in its type; states and gates stay as they are given.

    Args:
        gates: (B, T * N, gates * H), each branch's product with its input, bias included. LSTM overwrites it.
        weight: (B, gates * H, H), recurrent.
        decisions: (B, T, N), d_t(n); of frame t they combine the states of frame t.
        state: before the first frame.

    Returns:
        h of every branch (B, T, N, H), combined h (T, N, H), and the last combined state.
    """
    device = gates.device.type
    if torch.is_autocast_enabled(device):
        weight = weight.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        decisions = decisions.to(gates.dtype).unsqueeze(3)
        if kind == "gru":
            return _gru(gates.unflatten(1, decisions.shape[1:3]), weight, decisions, *state)
        own, h, c, _ = _LSTM.apply(gates, weight, decisions, *state)
    return own, h, (h[-1], c)


def lstm_cell(gates: Tensor, c: Tensor) -> State:
    """gates (N, 4 H) before their non-linearities, c (N, H) -> (h, c)."""
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(gates: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
    """gates: input products (..., 3 H), recurrent: products with h (..., 3 H) -> new h (..., H)."""
    size = 2 * h.size(-1)
    r, z = (gates[..., :size] + recurrent[..., :size]).sigmoid().chunk(2, dim=-1)
    n = (gates[..., size:] + r * recurrent[..., size:]).tanh()
    return n + z * (h - n)


def _gru(gates: Tensor, weight: Tensor, decisions: Tensor, h: Tensor) -> tuple[Tensor, Tensor, State]:
    """`scan` for GRU; autograd finds the gradients."""
    transposed, branches = weight.transpose(1, 2), len(weight)
    own, combined = [], []
    for z, d in zip(gates.unbind(1), decisions.unbind(1), strict=True):
        recurrent = torch.bmm(h.to(weight.dtype).expand(branches, -1, -1), transposed).to(z.dtype)
        own.append(gru_cell(z, recurrent, h))
        h = (d * own[-1]).sum(0)
        combined.append(h)
    return torch.stack(own, dim=1), torch.stack(combined), (h,)


class _LSTM(torch.autograd.Function):
    """`scan` for LSTM. Its own gradients: a product with the weights per frame, and one for all frames at the end."""

    @staticmethod
    def forward(ctx, gates, weight, decisions, h, c):
        """decisions (B, T, N, 1). Gives own h (B, T, N, H), h (T, N, H), the last c (N, H), gates (B, T * N, 4 H)."""
        (branches, size, _, _), dim = decisions.shape, h.size(1)
        own, tanh_c = gates.new_empty(2, branches, size, len(h), dim)
        hs, cs = gates.new_empty(2, size + 1, len(h), dim)
        hs[0], cs[0] = h, c
        transposed = weight.transpose(1, 2)
        cell, part = torch.empty_like(own[:, 0]), torch.empty_like(own[:, 0])
        over_time = (gates.unflatten(1, (size, len(h))), decisions, own, tanh_c)
        for t, (z, d, h_own, tanh) in enumerate(zip(*(part.unbind(1) for part in over_time), strict=True)):
            _add_product(z, hs[t], transposed)
            z[..., : 2 * dim].sigmoid_(), z[..., 2 * dim : 3 * dim].tanh_(), z[..., 3 * dim :].sigmoid_()
            i, f, g, o = z.chunk(4, dim=2)
            torch.mul(f, cs[t], out=cell).addcmul_(i, g)
            torch.tanh(cell, out=tanh)
            torch.mul(o, tanh, out=h_own)
            torch.sum(torch.mul(d, h_own, out=part), 0, out=hs[t + 1])  # eq. 2
            torch.sum(torch.mul(d, cell, out=part), 0, out=cs[t + 1])
        ctx.mark_dirty(gates)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gates, weight, decisions, own, tanh_c, hs, cs)
        return own, hs[1:].clone(), cs[-1].clone(), gates

    @staticmethod
    @once_differentiable
    def backward(ctx, own_grad, h_grad, c_grad, _):
        gates, weight, decisions, own, tanh_c, hs, cs = ctx.saved_tensors
        gates = gates.unflatten(1, decisions.shape[1:3])
        i, f, g, o = gates.chunk(4, dim=3)
        grad = _local_gradients(gates, tanh_c, cs)
        through = torch.ops.aten.tanh_backward(o, tanh_c)  # from h to c of a branch
        totals = gates.new_zeros(2, *hs.shape)  # gradients of the combined h and c before each frame and after the last
        dhs, dcs = totals
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
            _add_back(dhs[t], z, weight)
        before = hs[:-1].flatten(0, 1).to(weight.dtype).expand(len(weight), -1, -1)
        d_weight = torch.bmm(grad.flatten(1, 2).transpose(1, 2).to(weight.dtype), before)
        d_decisions = None
        if ctx.needs_input_grad[2]:
            d_decisions = (dhs[1:] * own + dcs[1:] * (f * cs[:-1] + i * g)).sum(3, keepdim=True)
        return grad.flatten(1, 2), d_weight, d_decisions, dhs[0], dcs[0]


def _add_product(total: Tensor, h: Tensor, transposed: Tensor) -> None:
    """total (B, N, M) += h (N, H) times transposed (B, H, M), in the type of the last."""
    h = h.to(transposed.dtype).expand(len(transposed), -1, -1)
    if transposed.dtype == total.dtype:
        total.baddbmm_(h, transposed)
    else:
        total += torch.bmm(h, transposed)


def _add_back(total: Tensor, z: Tensor, weight: Tensor) -> None:
    """total (N, H) += the sum over B of z (B, N, M) times weight (B, M, H), in the type of the last."""
    for part, matrix in zip(z.to(weight.dtype), weight, strict=True):
        if matrix.dtype == total.dtype:
            total.addmm_(part, matrix)
        else:
            total += part @ matrix


def _local_gradients(gates: Tensor, tanh_c: Tensor, cs: Tensor) -> Tensor:
    """(B, T, N, 4 H): d c / d (pre-activation) for i, f, g and d h / d (pre-activation) for o, of every frame."""
    i, f, g, o = gates.chunk(4, dim=3)
    grad = torch.empty_like(gates)
    di, df, dg, do = grad.chunk(4, dim=3)
    sigmoid, tanh = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
    sigmoid(g, i, grad_input=di), sigmoid(cs[:-1].expand_as(f), f, grad_input=df)
    tanh(i, g, grad_input=dg), sigmoid(tanh_c, o, grad_input=do)
    return grad
