"""Gradual magnitude pruning (AmNets, section 3, eq. 3; Zhu and Gupta, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.errors import UserError


@dataclass(frozen=True)
class PruningSchedule:
    """Eq. 3: from nothing to the final sparsity s_f in nu updates of the masks, one every Delta m steps.

    Attributes:
        final: s_f, the share of weights that go in the end, in [0, 1).
        num_updates: nu; 0 = the masks are never touched.
        every_steps: Delta m.
    """

    final: float
    num_updates: int
    every_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.final < 1:
            raise UserError(f"a sparsity of {self.final} cannot be reached; give 0 or more and less than 1")

    @property
    def last_step(self) -> int:
        """nu Delta m, the step of the last update."""
        return self.num_updates * self.every_steps

    def is_due(self, step: int) -> bool:
        """Whether the masks are to be computed again before training step `step`, counted from the start of pruning."""
        return self.num_updates > 0 and step % self.every_steps == 0 and 0 <= step <= self.last_step

    def sparsity(self, step: int) -> float:
        """s_t = s_f - s_f (1 - m / (nu Delta m))^3, m being `step`, at most nu Delta m."""
        left = 1 - min(step, self.last_step) / self.last_step if self.num_updates else 0.0
        return self.final - self.final * left**3


def magnitude_mask(weight: Tensor, sparsity: float, block: int = 1) -> Tensor:
    """The mask that takes the smallest weights of one matrix away.

    Args:
        weight: (w, v), the whole matrix, masked weights included: what was taken away may so come back.
        sparsity: share of weights that go.
        block: so many weights of a row, side by side, stay or go together, ranked by their Euclidean norm; a row's last
            block may be shorter, and is ranked by its root mean square like all the others.

    Returns:
        (w, v) bool, true where a weight stays; round(sparsity * blocks) blocks are false, whatever the ties.
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
    """The sparsity tracker of one branch: all its matrices follow one schedule, each ranked by itself.

    Args:
        weights: the branch's matrices, each with a parameter `W` (w, v) and a buffer `mask` of the same shape.
        block: as in `magnitude_mask`.
    """

    def __init__(self, weights: Sequence, schedule: PruningSchedule, block: int = 1) -> None:
        self.weights, self.schedule, self.block = weights, schedule, block

    @torch.no_grad()
    def update(self, step: int) -> bool:
        """Compute the masks again if they are due at `step`, counted from the start of pruning; says whether."""
        if not self.schedule.is_due(step):
            return False
        sparsity = self.schedule.sparsity(step)
        for weight in self.weights:
            weight.mask.copy_(magnitude_mask(weight.W, sparsity, self.block))
        return True
