"""The lattice recursion on the fastest engine that works; `recursion_plain.py` is the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels.dispatch import give_up_on_failure, is_usable, load_kernels, requested_engine
from residualformer.kernels.recursion_plain import Totals

MAX_LABELS = 2047  # per utterance in Triton; with more, each step gives plain PyTorch enough to do


def lattice_recursion(px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Totals:
    """Return the log-sum over paths (B,), and px_grad and py_grad, which are None without `with_grad`.

    Args:
        px: (B, S, T+1), or (B, S, T) if labels consume frames; py: (B, S+1, T); boundary: (B, 4). They must fit.

    Raises UserError if the package of the engine that `recursion_engine` asks for is missing.
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
    if px.device.type == "cuda" and px.dtype == torch.float32 and px.shape[1] <= MAX_LABELS and is_usable("triton"):
        return "triton"
    return "plain"
