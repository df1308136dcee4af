"""What recurrent encoders cost in the frames they really saw: branch shares, FLOPs per frame, simulated latency.

Source: Macoskey, Strimel, Su and Rastrow (2021), "Amortized Neural Networks for Low-Latency Speech Recognition",
section 5 and table 1. One FLOP is one multiply-accumulate, biases and element-wise operations are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.loss.amortized import backlog


@dataclass(frozen=True)
class Device:
    """What is simulated: a model's FLOPs per frame on a processor.

    Attributes:
        flops: `cost.flops_per_frame` of the model.
        mu: FLOP/s of the processor.
        rho: encoder frames per second.
    """

    flops: dict[str, Any]
    mu: float
    rho: float

    @property
    def per_branch(self) -> np.ndarray:
        """FLOPs (B,) of a frame by the branch that it takes, arbitrator and output projection included."""
        return np.array(self.flops["branches"]) + self.flops["arbitrator"] + self.flops["output"]

    def costs(self, decisions: np.ndarray) -> np.ndarray:
        """q (T,): FLOPs of each frame of `decisions` (T,)."""
        return self.per_branch[decisions]

    def backlog_s(self, decisions: np.ndarray) -> np.ndarray:
        """l_t / mu (T,), seconds of work that are left when frame t + 1 arrives (eq. 7); the last is the latency."""
        q = torch.from_numpy(self.costs(decisions))[None]
        return (backlog(q, torch.tensor([q.shape[1]]), self.mu, self.rho)[0] / self.mu).numpy()


def read_decisions(branches: str, num_branches: int, source: str) -> np.ndarray:
    """(T,) int64 of a record's `branches`, a digit per frame; UserError, naming `source`, for what is no branch."""
    try:
        found = np.array([int(digit) for digit in branches], dtype=np.int64)
    except ValueError:
        found = np.array([-1])
    if len(found) and not 0 <= found.min() <= found.max() < num_branches:
        raise UserError(
            f"{source} names branches that its model does not have; allowed: digits from 0 to {num_branches - 1}; "
            "run stage 7 again, with --overwrite."
        )
    return found


def summary(
    device: Device, decisions: Sequence[np.ndarray], compression: Sequence[float] = ()
) -> dict[str, Any] | None:
    """A row's `amnet`, from the decisions (T,) of each of its U utterances; None when there is no frame.

    `shares` of the frames by branch; `mflop` per frame, averaged over the frames of all utterances; `latency_ms`: mean,
    median, p90 and p99 over the utterances (eqs. 6-7); `per_branch`: MFLOP of a frame; `compression`, `mu`, `rho`,
    `frames`: what it rests on.
    """
    frames = sum(map(len, decisions))
    if not frames:
        return None
    counts = np.bincount(np.concatenate(decisions), minlength=len(device.per_branch))
    latency_ms = np.array([1e3 * device.backlog_s(taken)[-1] if len(taken) else 0.0 for taken in decisions])
    median, p90, p99 = np.percentile(latency_ms, [50, 90, 99])
    return {
        "frames": frames,
        "compression": list(compression),
        "shares": [round(float(share), 4) for share in counts / frames],
        "per_branch": [round(float(flops) / 1e6, 4) for flops in device.per_branch],
        "mflop": round(float(counts @ device.per_branch) / frames / 1e6, 4),
        "mu": device.mu,
        "rho": round(device.rho, 4),
        "latency_ms": {
            name: round(float(value), 3)
            for name, value in zip(("mean", "median", "p90", "p99"), (latency_ms.mean(), median, p90, p99), strict=True)
        },
    }


def percent_saved(mflop: float, dense: float) -> float:
    """What `mflop` is less than `dense`, in percent of that."""
    return 100 * (1 - mflop / dense)


def with_savings(rows: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Rows whose `amnet` also tells the `saving`, in percent of the FLOPs per frame of experiment `baseline`.

    None where there is no such experiment.
    """
    dense = next((row["amnet"]["mflop"] for row in rows if row["experiment"] == baseline and row.get("amnet")), None)

    def saving(amnet: dict[str, Any]) -> dict[str, float | None]:
        return {"saving": None if dense is None else round(percent_saved(amnet["mflop"], dense), 2)}

    return [row | {"amnet": row["amnet"] | saving(row["amnet"])} if row.get("amnet") else row for row in rows]


def shared_utterance(decisions: Sequence[dict[str, np.ndarray]], rho: float) -> str | None:
    """Id of the longest utterance of 3 to 10 s that every model decoded, for a picture: the first of equals by name.

    Where none is that long, the one nearest to 10 s; None where the models share no utterance.
    """
    frames = {name: len(decisions[0][name]) for name in set.intersection(*(set(taken) for taken in decisions))}
    return min(sorted(frames), key=lambda name: (frames[name] > 10 * rho, abs(frames[name] - 10 * rho)), default=None)


def table_order(config: Config) -> tuple:
    """Sorts recurrent experiments as table 1 does: by method, branches, and what decided between the branches."""
    amnet = config.amnet
    cost = ("none", "avg", "amr").index(amnet.cost.kind)
    return ("none", "sparse", "factorised").index(amnet.method), len(amnet.compression), cost, amnet.cost.match or ""
