"""Gradual magnitude pruning (AmNets, section 3, eq. 3; Zhu and Gupta, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.errors import UserError
from residualformer.nn.branches import SparseWeight


@dataclass(frozen=True)
class PruningSchedule:
    """The growth of sparsity (eq. 3): from 0 to s_f in nu updates of the masks, one every Delta m steps."""

    final: float  # s_f, the share of weights that are zero in the end, in [0, 1)
    num_updates: int  # nu; with 0 the masks never change
    every_steps: int  # Delta m

    def __post_init__(self) -> None:
        if not 0 <= self.final < 1:
            raise UserError(f"a sparsity of {self.final} cannot be reached; give 0 or more and less than 1")

    @property
    def last_step(self) -> int:
        """The step of the last update, nu Delta m."""
        return self.num_updates * self.every_steps

    def is_due(self, step: int) -> bool:
        """Return True if the masks change before training step `step`, counted from the start of pruning."""
        return self.num_updates > 0 and step % self.every_steps == 0 and 0 <= step <= self.last_step

    def sparsity(self, step: int) -> float:
        """Return s_t = s_f - s_f (1 - m / (nu Delta m))^3, where m is `step`, at most nu Delta m."""
        left = 1 - min(step, self.last_step) / self.last_step if self.num_updates else 0.0
        return self.final - self.final * left**3


def magnitude_mask(weight: Tensor, sparsity: float, block: int = 1) -> Tensor:
    """Return a mask that removes the smallest weights of one matrix.

    Args:
        weight: (w, v), the whole matrix with its masked weights, so that these may come back.
        sparsity: share of weights to remove.
        block: number of adjacent weights of a row that stay or go together, ranked by their root mean square; a row's
            last block may be shorter.

    Returns:
        (w, v) bool, True where a weight stays; exactly round(sparsity * blocks) blocks are False.
    """
    rows, columns = weight.shape
    per_row = -(-columns // block)
    power = F.pad(weight.detach().float().square(), (0, per_row * block - columns)).view(rows, per_row, block).sum(2)
    if columns % block:
        power[:, -1] *= block / (columns % block)
    mask = torch.ones(rows * per_row, dtype=torch.bool, device=weight.device)
    order = power.flatten().argsort(stable=True)
    mask[order[: round(sparsity * len(order))]] = False
    return mask.view(rows, per_row).repeat_interleave(block, dim=1)[:, :columns]


class BranchPruner:
    """The masks of one branch: all its matrices follow one schedule, and each ranks its own weights."""

    def __init__(self, weights: Sequence[SparseWeight], schedule: PruningSchedule, block: int = 1) -> None:
        self.weights, self.schedule, self.block = weights, schedule, block

    @torch.no_grad()
    def update(self, step: int) -> bool:
        """Compute the masks again if they are due at `step`, counted from the start of pruning; return True if so."""
        if not self.schedule.is_due(step):
            return False
        sparsity = self.schedule.sparsity(step)
        for weight in self.weights:
            weight.mask.copy_(magnitude_mask(weight.W, sparsity, self.block))
        return True
