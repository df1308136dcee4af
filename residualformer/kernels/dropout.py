"""Dropout that is cheap on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POOL_SIZE = 1 << 23
_REFRESH = 2000
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class _Pool:
    """Masks in a row, (_POOL_SIZE,), and how to draw them again; of an integer type: see `Dropout.bits`."""

    masks: Tensor
    seed: int
    uses: int = 0

    @classmethod
    def draw(cls, p: float, dtype: torch.dtype, seed: int, uses: int = 0) -> _Pool:
        masks = torch.empty(_POOL_SIZE, dtype=dtype).bernoulli_(1 - p, generator=torch.Generator().manual_seed(seed))
        return cls(masks.div_(1 - p) if dtype.is_floating_point else masks.neg_(), seed, uses)


_pools: dict[tuple[float, torch.dtype], _Pool] = {}
PoolStates = list[tuple[float, torch.dtype, int, int]]  # p, dtype, seed, uses


def pool_states() -> PoolStates:
    """What `restore_pools` needs to go on with the same masks."""
    return [(p, dtype, pool.seed, pool.uses) for (p, dtype), pool in _pools.items()]


def restore_pools(states: PoolStates) -> None:
    """Put the pools into the state they were in; [] is that of a new process."""
    _pools.clear()
    _pools.update({(p, dtype): _Pool.draw(p, dtype, seed, uses) for p, dtype, seed, uses in states})


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

    def bits(self, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """The mask of a tensor on the CPU without its scale, as integers of the size of `dtype`: all bits or none.

        To and them with the numbers' own bits takes a third of the time of a product. None: nothing is dropped.
        """
        if not self.training or self.p == 0:
            return None
        integers, size = _INTEGERS[dtype.itemsize], shape.numel()
        if size > _POOL_SIZE // 2:
            return torch.empty(shape, dtype=integers).bernoulli_(1 - self.p).neg_()
        return _mask(self.p, integers, size).view(shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _mask(p: float, dtype: torch.dtype, size: int) -> Tensor:
    pool = _pools.get((p, dtype))
    if pool is None or pool.uses == _REFRESH:
        pool = _pools[p, dtype] = _Pool.draw(p, dtype, seed=int(torch.randint(1 << 62, ())))
    pool.uses += 1
    start = int(torch.randint(_POOL_SIZE - size + 1, ()))
    return pool.masks[start : start + size]
