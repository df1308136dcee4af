"""Losses of a batch, and their averages over many batches."""

from __future__ import annotations

import logging
import resource
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from residualformer.data.collate import Batch
from residualformer.loss.arcs import NotFiniteError

log = logging.getLogger("residualformer")

Ratio = tuple[Tensor | float, float]  # a sum, and the count to divide it by


@dataclass(frozen=True)
class BatchLosses:
    """Losses of one batch."""

    sums: dict[str, Tensor]  # in nats, summed over the batch; `loss` is the one to minimize
    ratios: dict[str, Ratio] = field(default_factory=dict)  # other measures, such as the share of slow frames


class LossTracker:
    """Sums of losses and of their counts since the last `take`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._ratios: dict[str, tuple[float, float]] = {}
        self._frames = self._tokens = self._updates = 0
        self._norm = self._wait_s = 0.0
        self._started = time.perf_counter()

    def add(self, losses: BatchLosses, batch: Batch, norm: float = 0.0, wait_s: float = 0.0) -> None:
        """Add the losses of `batch`, its gradient norm and the seconds spent on waiting for its data."""
        for name, value in losses.sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + _number(value)
        for name, (added, count) in losses.ratios.items():
            total, total_count = self._ratios.get(name, (0.0, 0.0))
            self._ratios[name] = total + _number(added), total_count + count
        self._frames += int(batch.feature_lens.sum())
        self._tokens += int(batch.token_lens.sum())
        self._updates += 1
        self._norm += norm
        self._wait_s += wait_s

    def take(self) -> dict[str, float]:
        """Return averages (losses per token, the loss per frame, ratios, gradient norm) and rates; then start anew."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        values = {
            **{name + "_per_token": total / max(self._tokens, 1) for name, total in self._sums.items()},
            "loss_per_frame": self._sums.get("loss", 0.0) / max(self._frames, 1),
            **{name: total / max(count, 1) for name, (total, count) in self._ratios.items()},
            "grad_norm": self._norm / max(self._updates, 1),
            "frames_per_s": self._frames / seconds,
            "data_wait": self._wait_s / seconds,
            "memory_gb": peak_memory_gb(),
        }
        self._reset()
        return values


def peak_memory_gb() -> float:
    """Return the peak memory so far: of the GPU where one is used, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def warn_not_finite(error: NotFiniteError, batch: Batch, step: int) -> None:
    """Log that utterances of `batch` have no finite loss, and which."""
    log.warning("after step %d: %s; %s", step, error, ", ".join(batch.ids[row] for row in error.rows[:8]))


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else value
