"""Dropout that is cheap on a CPU, where drawing random masks costs more than the matrix products around it.

A mask is a random stretch of a pool of masks, which is drawn anew every 2,000 uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POOL_SIZE = 1 << 23
_REFRESH = 2000
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of one

PoolStates = list[tuple[float, torch.dtype, int, int]]  # p, dtype, seed, uses


@dataclass
class _Pool:
    """Masks in a row, (_POOL_SIZE,), and what is needed to draw them again.

    They are factors of floating-point numbers, 0 or 1 / (1 - p), or bits of integers: see `Dropout.bits`.
    """

    masks: Tensor
    seed: int
    uses: int = 0

    @classmethod
    def draw(cls, p: float, dtype: torch.dtype, seed: int, uses: int = 0) -> _Pool:
        masks = torch.empty(_POOL_SIZE, dtype=dtype).bernoulli_(1 - p, generator=torch.Generator().manual_seed(seed))
        return cls(masks.div_(1 - p) if dtype.is_floating_point else masks.neg_(), seed, uses)


_pools: dict[tuple[float, torch.dtype], _Pool] = {}


def pool_states() -> PoolStates:
    """Return what `restore_pools` needs to continue with the same masks."""
    return [(p, dtype, pool.seed, pool.uses) for (p, dtype), pool in _pools.items()]


def restore_pools(states: PoolStates) -> None:
    """Put the pools into the state they were in; [] is that of a new process."""
    _pools.clear()
    _pools.update({(p, dtype): _Pool.draw(p, dtype, seed, uses) for p, dtype, seed, uses in states})


class Dropout(nn.Module):
    """Inverted dropout with probability p: on a CPU by a mask from a pool, elsewhere PyTorch's own."""

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
        """Return a mask on the CPU as integers of the size of `dtype`, with all bits set or none; None drops nothing.

        A bitwise "and" with the bits of numbers takes a third of the time of a product, but leaves out the scale.
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
    """Return a mask (size,) from the pool of its kind."""
    pool = _pools.get((p, dtype))
    if pool is None or pool.uses == _REFRESH:
        pool = _pools[p, dtype] = _Pool.draw(p, dtype, seed=int(torch.randint(1 << 62, ())))
    pool.uses += 1
    start = int(torch.randint(_POOL_SIZE - size + 1, ()))
    return pool.masks[start : start + size]
