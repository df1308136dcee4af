"""Losses of a batch, and their averages over many batches."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from residualformer.data.collate import Batch
from residualformer.train.ranks import Ranks

Number = Tensor | float
Ratio = tuple[Number, Number]  # a sum, and the count to divide it by


@dataclass(frozen=True)
class BatchLosses:
    """Losses of one batch."""

    sums: dict[str, Tensor]  # in nats, summed over the batch; `loss` is the one to minimize
    ratios: dict[str, Ratio] = field(default_factory=dict)  # other measures, such as the share of slow frames


class LossTracker:
    """Sums of losses and of their counts since the last `take`, of the batches of this rank.

    Sums stay on the device of the losses until then, for the host would wait at each.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Number] = {}
        self._totals: dict[str, Number] = {}  # of the ratios
        self._counts: dict[str, Number] = {}
        self._amounts = {"frames": 0.0, "tokens": 0.0}
        self._updates, self._norm, self._wait_s = 0, 0.0, 0.0
        self._started = time.perf_counter()

    def add(self, losses: BatchLosses, batch: Batch) -> None:
        """Add the losses of `batch`, whose lengths should be on the CPU."""
        for name, value in losses.sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + _exact(value)
        for name, (added, count) in losses.ratios.items():
            self._totals[name] = self._totals.get(name, 0.0) + _exact(added)
            self._counts[name] = self._counts.get(name, 0.0) + _exact(count)
        self._amounts["frames"] += int(batch.feature_lens.sum())
        self._amounts["tokens"] += int(batch.token_lens.sum())

    def add_update(self, norm: float, wait_s: float) -> None:
        """Add the gradient norm of an update and the seconds spent on waiting for its data."""
        self._updates += 1
        self._norm += norm
        self._wait_s += wait_s

    def take(self, ranks: Ranks) -> dict[str, float]:
        """Return averages (losses per token, the loss per frame, ratios, gradient norm) and rates; then start anew.

        Losses and ratios are of all ranks.
        """
        seconds = max(time.perf_counter() - self._started, 1e-9)
        gathered = ranks.gather([*map(_read, (self._sums, self._totals, self._counts)), self._amounts])
        sums, totals, counts, amounts = map(_added, zip(*gathered, strict=True))
        frames, tokens = amounts["frames"], amounts["tokens"]
        values = {
            **{name + "_per_token": total / max(tokens, 1) for name, total in sums.items()},
            "loss_per_frame": sums.get("loss", 0.0) / max(frames, 1),
            **{name: total / max(counts[name], 1) for name, total in totals.items()},
            "grad_norm": self._norm / max(self._updates, 1),
            "frames_per_s": frames / seconds,
            "data_wait": self._wait_s / seconds,
            "memory_gb": peak_memory_gb(),
        }
        self._reset()
        return values


def peak_memory_gb() -> float:
    """Return the peak memory so far: of the GPU where one is used, else resident in this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Add the numbers of each name, which not all parts may have."""
    names = dict.fromkeys(chain.from_iterable(parts))
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _exact(value: Number) -> Number:
    """Return the value in float64, so that the sum of many is exact, where it is."""
    return value.detach().double() if isinstance(value, Tensor) else value


def _read(values: dict[str, Number]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
