"""What the kernels in Triton share; Triton must be installed.

Without a GPU the kernels run in Triton's interpreter, if the environment has TRITON_INTERPRET=1 before anything imports
Triton. That is how the tests run them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from residualformer.errors import UserError

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def product(a, b, total):
    """Return total + a b, with float32 sums: of bf16 factors, or of float32 ones as three products of TF32 parts."""
    if INTERPRETED and a.dtype == tl.bfloat16:  # the interpreter multiplies the bits of bf16 numbers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="tf32x3")


@triton.jit
def tanh(x):
    """Return tanh(x) with an error of 1.5e-7; the interpreter knows none."""
    z = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - z) / (1.0 + z)
    return tl.where(x < 0.0, -y, y)


def check(kernel: str, like: Tensor) -> None:
    """Raise UserError if `kernel`, named in the sentence, is given tensors that Triton's kernels do not take."""
    if like.dtype != torch.float32:
        got = str(like.dtype).removeprefix("torch.")
        raise UserError(f"{kernel} in Triton takes float32, got {got}: convert it with .float(), or use engine 'plain'")
    if not like.is_cuda and not INTERPRETED:
        raise UserError(
            f"{kernel} in Triton needs tensors on CUDA, got {like.device}: move them, or use engine 'plain'"
        )


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of `like`, which need not be the current one; Triton launches on the current one."""
    with torch.cuda.device_of(like):
        kernel[grid](*arguments, **options)
