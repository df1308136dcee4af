"""Sums and counts of a training, its log line, and where both are written."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from residualformer.files import read_log, write_text
from residualformer.metrics.bleu import bleu_and_chrf
from residualformer.metrics.wer import count_errors

# What the progress line tells of branches, see `phases.py`.
SHARES = {
    "arbitrator_bce": "arbitrator {:.3f} nats",
    "arbitrator_accuracy": "{:.1%} right",
    "slow_share": "slow {:.1%}",
    "real_time_factor": "cost {:.3f} x real time",
    "delay_s": "delay {:.2f} s",
    "cost_weight": "weight {:.3g}",
}


@dataclass
class Clock:
    """Seconds that a training has taken, over all calls that went on with it: by the clock, and of CPU."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    @property
    def running_s(self) -> float:
        """By the clock, since `start`."""
        return time.perf_counter() - self._started[0]

    def read(self) -> dict[str, float]:
        """All until now; the constructor's arguments when the training goes on in another call."""
        cpu = time.process_time() - self._started[1]
        return {"wall_s": round(self.wall_s + self.running_s, 1), "cpu_s": round(self.cpu_s + cpu, 1)}


@dataclass(frozen=True)
class Losses:
    """Of one batch.

    Attributes:
        sums: nats, summed over the batch; `loss` is what training minimises.
        shares: other measures, each as a sum and what it is to be divided by.
    """

    sums: dict[str, Tensor]
    shares: dict[str, tuple[Tensor | float, float]] = field(default_factory=dict)


class Tracker:
    """Losses as sums, with what they are divided by when shown, over the updates since the last `take`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, float] = {}
        self.shares: dict[str, tuple[float, float]] = {}
        self.frames = self.tokens = self.updates = 0
        self.norm = self.wait = 0.0
        self.started = time.perf_counter()

    def add(self, losses: Losses, frames: int, tokens: int, norm: float = 0.0, wait: float = 0.0) -> None:
        """The losses of a batch, its 10 ms `frames` and its `tokens`; `wait` seconds spent on data."""
        for name, value in losses.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + _number(value)
        for name, (value, count) in losses.shares.items():
            total, counted = self.shares.get(name, (0.0, 0.0))
            self.shares[name] = total + _number(value), counted + count
        self.frames, self.tokens, self.updates = self.frames + frames, self.tokens + tokens, self.updates + 1
        self.norm, self.wait = self.norm + norm, self.wait + wait

    def take(self) -> dict[str, float]:
        """Per-frame loss, per-token parts, shares, mean gradient norm, rates; then start anew."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        values = {name + "_per_token": total / max(self.tokens, 1) for name, total in self.sums.items()}
        values["loss_per_frame"] = self.sums.get("loss", 0.0) / max(self.frames, 1)
        values |= {name: total / max(count, 1) for name, (total, count) in self.shares.items()}
        values |= {"grad_norm": self.norm / max(self.updates, 1), "frames_per_s": self.frames / seconds}
        values |= {"data_wait": self.wait / seconds, "memory_gb": peak_memory_gb()}
        self._reset()
        return values


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else value


def greedy_scores(references: Sequence[str], hypotheses: Sequence[str], target: str) -> dict[str, float]:
    """Word and character error rate in percent, or BLEU and chrF when the `target` is a translation."""
    if target == "translation":
        return {f"greedy_{name}": measure.value for name, measure in bleu_and_chrf(references, hypotheses).items()}
    units = {"greedy_wer": "word", "greedy_cer": "character"}
    return {name: count_errors(references, hypotheses, unit).rate for name, unit in units.items()}


class MetricsWriter:
    """Appends to `metrics.jsonl` and TensorBoard, after dropping what an interrupted run wrote beyond `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        records = [record for record in read_log(path) if record.get("step", 0) <= step] if path.exists() else []
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, part: str, values: dict[str, float]) -> None:
        """One record; `part` is `train` or `valid` and precedes each name."""
        named = {f"{part}/{name}": round(value, 6) for name, value in values.items()}
        self.file.write(json.dumps({"step": step, **named}) + "\n")
        self.file.flush()
        for name, value in named.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


def peak_memory_gb() -> float:
    """Peak memory so far: of the GPU where one is used, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def progress_line(step: int, max_steps: int, values: dict[str, float], lr: float, eta_s: float) -> str:
    """step, losses, branches, gradient norm, lr, frames/s, data wait, memory, ETA on one line."""
    parts = [f"step {step}/{max_steps}", f"loss/frame {values['loss_per_frame']:.4f}"]
    names = {"transducer_per_token": "rnnt/token", "simple_per_token": "simple/token", "ctc_per_token": "ctc/token"}
    parts += [f"{short} {values[name]:.3f}" for name, short in names.items() if name in values]
    parts += [text.format(values[name]) for name, text in SHARES.items() if name in values]
    parts += [f"grad {values['grad_norm']:.3g}", f"lr {lr:.2e}", f"{values['frames_per_s']:.0f} frames/s"]
    parts += [f"wait {100 * values['data_wait']:.0f}%", f"mem {values['memory_gb']:.2f} GB"]
    return " | ".join(parts + [f"ETA {int(eta_s) // 60}:{int(eta_s) % 60:02d}"])
