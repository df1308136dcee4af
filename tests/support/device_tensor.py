"""Tensors that report `cuda:0` and hold memory of the CPU; what `support.counting` counts with."""

from __future__ import annotations

from typing import Any

import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class DeviceTensor(torch.Tensor):
    """A tensor on `CountingDevice`; `held` is the same memory as a tensor of the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        self = torch.Tensor._make_subclass(cls, held.detach(), held.requires_grad, device_for_backend_keys=CUDA)
        self.held = held.detach()
        return self

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __deepcopy__(self, memo: dict) -> DeviceTensor:
        copied = DeviceTensor(self.held.clone()).requires_grad_(self.requires_grad)
        return torch.nn.Parameter(copied) if isinstance(self, torch.nn.Parameter) else copied

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of a CountingDevice that is no longer active")


def wrapped(value: Any) -> Any:
    return DeviceTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor) else value


def held(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def is_cuda(value: Any) -> bool:
    """Return whether an argument names the device."""
    if isinstance(value, str):
        return value.startswith("cuda")
    return isinstance(value, torch.device) and value.type == "cuda"


def is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or value in ("cpu", "cuda", "cuda:0")


def on_cpu(value: Any) -> Any:
    return CPU if is_cuda(value) else value
