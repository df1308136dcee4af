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
