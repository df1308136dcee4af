"""Floating-point precision inside a loss: float32 throughout, bf16 factors in large products where autocast is on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def bf16_autocast(like: Tensor, enabled: bool) -> torch.autocast:
    """Return bf16 autocast for the device of `like`, switched on by `enabled`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=enabled)


def no_autocast(like: Tensor | None) -> torch.autocast:
    """Return a context without autocast on the device of `like`, or on the CPU."""
    return torch.autocast("cpu" if like is None else like.device.type, enabled=False)


def is_bf16_autocast(device_type: str) -> bool:
    """Return True if autocast to bf16 is on for the device (`tensor.device.type`)."""
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.bfloat16


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, with half-precision tensors turned into float32.

    Sums of thousands of log-probabilities do not survive 8 bits; float64 stays float64.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        with no_autocast(first):
            return function(*widened(*args), **dict(zip(kwargs, widened(*kwargs.values()))))

    return wrapper


def widened(*values: Any) -> list[Any]:
    """Return `values` with half-precision tensors turned into float32."""
    half = (torch.bfloat16, torch.float16)
    return [value.float() if isinstance(value, Tensor) and value.dtype in half else value for value in values]


@contextmanager
def bf16_products(device_type: str, enabled: bool) -> Iterator[None]:
    """Let products of float32 matrices round their factors within the context; sums and results stay float32.

    On a CPU the factors become bf16; a CPU without bf16 instructions stays in float32. On CUDA they become TF32 (10
    bits of mantissa, bf16 has 7), the least that torch offers for float32 tensors there. Nothing changes on other
    devices, for other types, or without `enabled`. Autocast would round the results as well.

    The setting is one of the whole process: it also rounds what other threads multiply meanwhile, among them those of
    backward. The context restores it at its end, after an error too.
    """
    backend: Any
    if device_type == "cpu":
        backend, precision = torch.backends.mkldnn.matmul, "bf16"  # type: ignore[attr-defined]
    else:
        backend, precision = torch.backends.cuda.matmul, "tf32"
    if not enabled or device_type not in ("cpu", "cuda"):
        yield
        return
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
