"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POOL_SIZE = 1 << 23
_pools: dict[tuple[float, torch.dtype], list] = {}  # (p, dtype) -> [mask pool, uses since it was drawn]
_REFRESH = 2000


class Dropout(nn.Module):
    """Inverted dropout; on a CPU the mask is a random stretch of a pool that is drawn anew every 2,000 uses.

    Drawing Bernoulli numbers costs more there than the matrix products around it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or x.numel() > _POOL_SIZE // 2:
            return F.dropout(x, self.p)
        return x * _mask(self.p, x.dtype, x.numel()).view(x.shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _mask(p: float, dtype: torch.dtype, size: int) -> Tensor:
    entry = _pools.setdefault((p, dtype), [None, 0])
    if entry[1] % _REFRESH == 0:
        entry[0] = torch.empty(_POOL_SIZE, dtype=dtype).bernoulli_(1 - p).div_(1 - p)
    entry[1] += 1
    start = int(torch.randint(_POOL_SIZE - size + 1, ()))
    return entry[0][start : start + size]
