"""Inputs of the recurrent loop of branches, and its plain form with flat results."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels.recurrent import GATES, NUM_STATES
from residualformer.kernels.scan import plain_scan


def inputs(kind: str, branches=2, frames=5, streams=3, dim=4, dtype=torch.float64) -> list[Tensor]:
    """gates, weight, decisions (soft, sum to one), and the states, each wanting a gradient."""
    torch.manual_seed(2)
    width = GATES[kind] * dim
    gates = torch.randn(branches, frames * streams, width)
    weight = torch.randn(branches, width, dim) / 2
    decisions = torch.randn(branches, frames, streams).softmax(0)
    states = [torch.randn(streams, dim) for _ in range(NUM_STATES[kind])]
    return [t.to(dtype).requires_grad_() for t in (gates, weight, decisions, *states)]


def plain(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    own, h, state = plain_scan(kind, gates, weight, decisions, state)
    return own, h, *state
