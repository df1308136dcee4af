"""Dropout that is cheap on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_POOL_SIZE = 1 << 23
_REFRESH = 2000


@dataclass
class _Pool:
    """Masks in a row, (_POOL_SIZE,), and how to draw them again."""

    masks: Tensor
    seed: int
    uses: int = 0

    @classmethod
    def draw(cls, p: float, dtype: torch.dtype, seed: int, uses: int = 0) -> _Pool:
        masks = torch.empty(_POOL_SIZE, dtype=dtype)
        return cls(masks.bernoulli_(1 - p, generator=torch.Generator().manual_seed(seed)).div_(1 - p), seed, uses)


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

    def of_relu(self, x: Tensor) -> Tensor:
        """Dropout of relu(x)."""
        if not self.training or self.p == 0 or x.device.type != "cpu" or x.numel() > _POOL_SIZE // 2:
            return self(F.relu(x))
        return _DroppedRelu.apply(x, _mask(self.p, x.dtype, x.numel()).view(x.shape), 1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _DroppedRelu(torch.autograd.Function):
    """relu(x) * mask; all that backward needs is the result, which is above 0 where both let x through."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        y = F.relu(x).mul_(mask)
        ctx.save_for_backward(y)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0).mul_(ctx.scale), None, None


def _mask(p: float, dtype: torch.dtype, size: int) -> Tensor:
    pool = _pools.get((p, dtype))
    if pool is None or pool.uses == _REFRESH:
        pool = _pools[p, dtype] = _Pool.draw(p, dtype, seed=int(torch.randint(1 << 62, ())))
    pool.uses += 1
    start = int(torch.randint(_POOL_SIZE - size + 1, ()))
    return pool.masks[start : start + size]
