"""How exact the large products inside a loss are: bf16 factors with float32 sums where autocast would take bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_BACKENDS = {"cpu": (torch.backends.mkldnn.matmul, "bf16"), "cuda": (torch.backends.cuda.matmul, "tf32")}


def bf16_autocast(like: Tensor, enabled: bool) -> torch.autocast:
    """Return bf16 autocast for the device of `like`, switched on by `enabled`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=enabled)


def wanted(device_type: str) -> bool:
    """Whether autocast to bf16 is on for the device (`tensor.device.type`)."""
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.bfloat16


@contextmanager
def products(device_type: str, bf16: bool) -> Iterator[None]:
    """Within it, with `bf16`, products of float32 matrices may round their factors; sums and results are float32.

    On a CPU the factors become bf16; one without bf16 instructions goes on in float32. On CUDA they become TF32 (10
    bits of mantissa, bf16 has 7), the least that torch offers for float32 tensors there. Other devices, other types,
    and `bf16` false: nothing changes. autocast rounds the results as well, hence this instead of it in a loss.

    The setting is one of the whole process, so what another thread multiplies meanwhile is rounded, too; it holds in
    the threads of backward. It is put back at the end, whatever happens.
    """
    if not bf16 or device_type not in _BACKENDS:
        yield
        return
    backend, precision = _BACKENDS[device_type]
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
