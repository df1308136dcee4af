"""The cost of branches on the frames of a test set: their shares, FLOPs per frame, simulated latency.

Those of recurrent encoders are chosen for each frame, the depths of a Transformer with an arbitrator for each chunk.

Source: Macoskey, Strimel, Su and Rastrow (2021), "Amortized Neural Networks for Low-Latency Speech Recognition",
section 5 and table 1. One FLOP is one multiply-accumulate, biases and element-wise operations are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.loss.amortized import backlog
from residualformer.model.cost import FlopsPerFrame


@dataclass(frozen=True)
class Device:
    """A simulated processor that runs a model."""

    flops: FlopsPerFrame
    mu: float  # FLOP/s of the processor
    rho: float  # encoder frames per second
    frames_per_step: int = 1  # of which a decision is made, and which arrive together

    @property
    def per_branch(self) -> np.ndarray:
        """FLOPs (B,) of a frame for each branch it may take, with the arbitrator and the output projection."""
        return np.array(self.flops["branches"]) + self.flops["arbitrator"] + self.flops["output"]

    @property
    def step_s(self) -> float:
        """Seconds from a decision to the next."""
        return self.frames_per_step / self.rho

    def backlog_s(self, decisions: np.ndarray) -> np.ndarray:
        """Return l_t / mu (T,), the seconds of work left when step t + 1 arrives (eq. 7); the last is the latency.

        `decisions` (T,) holds the branch that each step takes.
        """
        q = torch.from_numpy(self.frames_per_step * self.per_branch[decisions])[None]
        return (backlog(q, torch.tensor([q.shape[1]]), self.mu, 1 / self.step_s)[0] / self.mu).numpy()


def read_decisions(branches: str, num_branches: int, source: str) -> np.ndarray:
    """Return (T,) int64 from a record's `branches`, a digit per frame or chunk.

    Raises:
        UserError: a branch does not exist; the message names `source`.
    """
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


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Simulated latency over the utterances of a test set, in milliseconds (eqs. 6-7)."""

    mean: float
    median: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class AmnetCost:
    """The cost of branches on a test set; lists hold a value for each, slow first."""

    frames: int  # encoder frames of all utterances, those that fill up a last chunk included
    compression: list[float]  # share of the weights that is removed
    shares: list[float]  # share of the frames that take the branch
    per_branch: list[float]  # MFLOPs of a frame
    mflop: float  # MFLOPs per frame, averaged over the frames
    mu: float  # and rho: see `Device`
    rho: float
    latency_ms: Latency
    saving: float | None  # percent of the baseline's MFLOPs per frame that are saved; None without a baseline


def measure_cost(
    device: Device, decisions: Sequence[np.ndarray], compression: Sequence[float] = ()
) -> AmnetCost | None:
    """Return the cost of the decisions (T,) of each of U utterances, without a saving; None where there is no frame."""
    steps = sum(map(len, decisions))
    if not steps:
        return None
    counts = np.bincount(np.concatenate(decisions), minlength=len(device.per_branch))
    latency_ms = np.array([1e3 * device.backlog_s(taken)[-1] if len(taken) else 0.0 for taken in decisions])
    mean, median, p90, p99 = (
        round(float(value), 3) for value in (latency_ms.mean(), *np.percentile(latency_ms, [50, 90, 99]))
    )
    return AmnetCost(
        frames=steps * device.frames_per_step,
        compression=list(compression),
        shares=[round(float(share), 4) for share in counts / steps],
        per_branch=[round(float(flops) / 1e6, 4) for flops in device.per_branch],
        mflop=round(float(counts @ device.per_branch) / steps / 1e6, 4),
        mu=device.mu,
        rho=round(device.rho, 4),
        latency_ms=Latency(mean=mean, median=median, p90=p90, p99=p99),
        saving=None,
    )


def percent_saved(mflop: float, dense: float) -> float:
    """Return how much less `mflop` is than `dense`, in percent of `dense`."""
    return 100 * (1 - mflop / dense)


def shared_utterance(decisions: Sequence[dict[str, np.ndarray]], rho: float) -> str | None:
    """Return the id of the longest utterance of up to 10 s that all models decoded, else of the one nearest to 10 s.

    The first by name is taken of equally long ones. None where the models share no utterance.
    """
    frames = {name: len(decisions[0][name]) for name in set.intersection(*(set(taken) for taken in decisions))}
    return min(sorted(frames), key=lambda name: (frames[name] > 10 * rho, abs(frames[name] - 10 * rho)), default=None)


def table_order(config: Config) -> tuple[int, int, int, str]:
    """Return a key that sorts recurrent experiments as in the paper's table 1: by method, branches and cost."""
    amnet = config.amnet
    cost = ("none", "avg", "amr").index(amnet.cost.kind)
    return ("none", "sparse", "factorised").index(amnet.method), len(amnet.compression), cost, amnet.cost.match or ""
