"""The lattice recursion on the fastest engine that works; `recursion_plain.py` is the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels.dispatch import (
    give_up_on_failure,
    is_usable,
    load_kernels,
    requested_engine,
    triton_or_plain,
)
from residualformer.kernels.recursion_plain import Totals

MAX_LABELS = 2047  # per utterance in Triton; with more, each step gives plain PyTorch enough to do


def lattice_recursion(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
    """Return the log-sum over paths (B,), and px_grad and py_grad, which are None without `with_grad`.

    Args:
        px: (B, S, T+1), or (B, S, T) if labels consume frames; py: (B, S+1, T); boundary: (B, 4). They must fit.

    Raises UserError if the engine that `recursion_engine` asks for is not installed or does not take such tensors.
    """
    engine = requested_engine()
    if engine == "auto":
        engine = _fastest(px)
        if engine != "plain":
            with give_up_on_failure(engine):
                return load_kernels("recursion", engine).run(px, py, boundary, with_grad)
            engine = "plain"
    return load_kernels("recursion", engine).run(px, py, boundary, with_grad)


def _fastest(px: Tensor) -> str:
    if px.device.type == "cpu" and px.dtype in (torch.float32, torch.float64) and is_usable("numba"):
        return "numba"
    too_long = f"Triton's is for up to {MAX_LABELS} labels, not {px.shape[1]}" if px.shape[1] > MAX_LABELS else None
    return triton_or_plain("the lattice recursion", px, too_long)
