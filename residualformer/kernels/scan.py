"""The recurrent loop of an AmRNN layer: branches that share their states (AmNets, eq. 2).

Letters: B branches, N streams, T frames, H outputs; gates and states are those of `kernels.recurrent`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residualformer.kernels.dispatch import engine_for, load_kernels, requested_engine, run_or_plain, triton_or_plain
from residualformer.kernels.precision import no_autocast
from residualformer.kernels.recurrent import State, cell


def scan(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Run B branches in step: at each frame all start from the same state, and eq. 2 combines what they make of it.

    Under autocast the products are done in its type; states and gates stay as they are given. LSTM has a backward pass
    of its own, and kernels for a frame, in numba on a CPU (`scan_numba.py`) and in Triton on CUDA (`scan_triton.py`);
    the reference of both is `scan_plain.py`.

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
            triton_or_plain("the scan of branches", gates, "Triton's is for LSTM, not GRU")  # says so in the log
            return plain_scan(kind, gates, weight, decisions, state)
        own, h, c, _ = _LSTM.apply(gates.contiguous(), weight, decisions.to(gates.dtype).unsqueeze(3), *state)
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
        unflat = gates.unflatten(1, (size, len(h)))
        ctx.fall_back = requested_engine() == "auto"

        def compute(engine: str) -> None:
            load_kernels("scan", engine).forward(unflat, weight, decisions, own, tanh_c, hs, cs)

        ctx.engine = run_or_plain(engine_for("the scan of branches", "scan", gates), compute, ctx.fall_back)
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
        dhs, dcs = gates.new_zeros(2, *hs.shape)  # of the combined h and c before the first frame and after each
        if h_grad is not None:
            dhs[1:] = h_grad
        if c_grad is not None:
            dcs[-1] = c_grad
        grads: list[Tensor] = []

        def compute(engine: str) -> None:
            frames = load_kernels("scan", engine)
            grads.append(frames.backward(gates, weight, decisions, tanh_c, cs, own_grad, dhs, dcs))

        run_or_plain(ctx.engine, compute, ctx.fall_back)
        (grad,) = grads
        before = hs[:-1].flatten(0, 1).to(weight.dtype).expand(len(weight), -1, -1)
        d_weight = torch.bmm(grad.flatten(1, 2).transpose(1, 2).to(weight.dtype), before)
        d_decisions = None
        if ctx.needs_input_grad[2]:
            i, f, g, _ = gates.chunk(4, dim=3)
            d_decisions = (dhs[1:] * own + dcs[1:] * (f * cs[:-1] + i * g)).sum(3, keepdim=True)
        return grad.flatten(1, 2), d_weight, d_decisions, dhs[0], dcs[0]
