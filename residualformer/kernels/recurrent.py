"""Recurrent cells, and one layer of them over all frames.

Gates are stacked as PyTorch stacks them: i, f, g, o (LSTM) or r, z, n (GRU), one bias each. Letters: N streams,
T frames, v inputs of a layer, H outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.kernels.operators import find
from residualformer.kernels.precision import no_autocast

GATES = {"lstm": 4, "gru": 3}
NUM_STATES = {"lstm": 2, "gru": 1}
State = tuple[Tensor, ...]  # each (N, H): (h, c) for LSTM, (h,) for GRU

_LAYERS = {"lstm": find("lstm"), "gru": find("gru")}
_CELLS = {"lstm": find("lstm_cell"), "gru": find("gru_cell")}


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return (h, c) of the next frame from gates (..., 4 H) before their non-linearities and c (..., H)."""
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(gates: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
    """Return h of the next frame from the products of the input and of h, (..., 3 H) each, and h (..., H)."""
    size = 2 * h.size(-1)
    r, z = (gates[..., :size] + recurrent[..., :size]).sigmoid().chunk(2, dim=-1)
    n = (gates[..., size:] + r * recurrent[..., size:]).tanh()
    return n + z * (h - n)


def cell(kind: str, gates: Tensor, recurrent: Tensor, state: State) -> State:
    """Return the next state from the products of the input, bias included, and of h, (..., gates * H) each."""
    if kind == "gru":
        return (gru_cell(gates, recurrent, state[0]),)
    return lstm_cell(gates + recurrent, state[1])


def recurrent_layer(
    kind: str, x: Tensor, state: State, w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, State]:
    """Run one layer over all frames, by PyTorch's own layer; a lone frame at run time by its cell.

    On a CPU the layer re-orders its weights at each call, which for one frame takes 20 times as long as the frame does.
    Under autocast it computes in its type on a CPU, and in float32 (cuDNN: TF32) on a GPU.

    Args:
        kind: `lstm` or `gru`.
        x: (T, N, v).
        w_input, w_recurrent, bias: (gates * H, v), (gates * H, H), (gates * H,).

    Returns:
        h (T, N, H) and the new state.
    """
    device = x.device.type
    if _has_own_autocast(device):
        with no_autocast(x):
            state = tuple(part.float() for part in state)
            return recurrent_layer(kind, x.float(), state, w_input.float(), w_recurrent.float(), bias.float())
    run_cell, run_layer = _CELLS[kind], _LAYERS[kind]
    if len(x) == 1 and not torch.is_grad_enabled() and run_cell:
        before = [part.to(x.dtype) for part in state]
        if kind == "lstm":
            state = run_cell(x[0], before, w_input, w_recurrent, bias)
        else:
            state = (run_cell(x[0], before[0], w_input, w_recurrent, bias),)
        return state[0].unsqueeze(0), state
    if not run_layer:
        return plain_recurrent_layer(kind, x, state, w_input, w_recurrent, bias)
    first = [part.unsqueeze(0).to(x.dtype) for part in state]
    y, *last = run_layer(
        x,
        first if kind == "lstm" else first[0],
        [w_input, w_recurrent, bias, torch.zeros_like(bias)],  # PyTorch's layer has a second bias
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=torch.is_grad_enabled(),
        bidirectional=False,
        batch_first=False,
    )
    return y, tuple(part.squeeze(0) for part in last)


def plain_recurrent_layer(
    kind: str, x: Tensor, state: State, w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, State]:
    """Compute `recurrent_layer` frame by frame."""
    frames = []
    for gates in F.linear(x, w_input, bias).unbind(0):
        state = cell(kind, gates, F.linear(state[0].to(x.dtype), w_recurrent), state)
        frames.append(state[0])
    return torch.stack(frames), state


def _has_own_autocast(device: str) -> bool:
    """Return whether autocast is on and does not do to recurrent layers what it does to products.

    cuDNN's are fp16 under it, whatever its type, so that small gradients vanish, and refuse weights of two types.
    """
    return device != "cpu" and torch.is_autocast_enabled(device)
