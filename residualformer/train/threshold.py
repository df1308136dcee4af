"""The threshold between slow and fast: the shift of an arbitrator's logits that gives a wanted share of work.

Letters: M decisions among B branches, the slow one first. The work of a branch is 1 for the slow one and 0 for the
fastest; d is the shift, and a decision is the branch b of the largest logit_b + d work_b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def work_of_branches(flops: Sequence[float]) -> Tensor:
    """Return the work of each branch by its FLOPs, slow first: (B,) float64 from 1 to 0.

    The mean work of some decisions is their share of slow frames where there are two branches. Branches that all cost
    the same, as before they are pruned, are as far apart as their places.
    """
    costs = torch.tensor(flops, dtype=torch.float64)
    span = costs[0] - costs[-1]
    return (costs - costs[-1]) / span if span > 0 else torch.linspace(1, 0, len(costs), dtype=torch.float64)


def shift_to_work(logits: Tensor, work: Tensor, target: float) -> Tensor:
    """Return the d with which decisions by logits (M, B) have a mean work as near to `target` as M of them can.

    It lies midway between two changes of a decision, and never so that all are slow or all fast.
    """
    changes, gains = _changes(logits, work)
    changes, order = changes.sort()
    mean_work = gains[order].double().cumsum(0) / len(logits)
    passed = int((mean_work[:-1] - target).abs().argmin())
    return changes[passed : passed + 2].mean()


def _changes(logits: Tensor, work: Tensor) -> tuple[Tensor, Tensor]:
    """Return the d at which decisions change, up to B - 1 for each as d rises, and the work that each change adds.

    The logits are lines over d, whose upper envelope is followed from its flattest line on.
    """
    current = logits.masked_fill(work > work.min(), -torch.inf).argmax(1, keepdim=True)
    changes, gains = [], []
    for _ in range(logits.size(1) - 1):
        gain = work - work[current]  # (M, B)
        crossing = (logits.gather(1, current) - logits) / gain
        at, steeper = crossing.masked_fill(gain <= 0, torch.inf).min(1, keepdim=True)
        found = at.isfinite()
        changes.append(at[found])
        gains.append(gain.gather(1, steeper)[found])
        current = torch.where(found, steeper, current)
    return torch.cat(changes), torch.cat(gains)
