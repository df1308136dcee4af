"""Time spent on a training, and its measurements in the log, in metrics.jsonl and in TensorBoard."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from residualformer.files import read_log, write_text
from residualformer.train.ranks import Ranks

# Measures of trainings with branches (`phases.py`), as the progress line shows them.
BRANCH_MEASURES = {
    "arbitrator_bce": "arbitrator {:.3f} nats",
    "arbitrator_accuracy": "accuracy {:.1%}",
    "slow_share": "slow {:.1%}",
    "real_time_factor": "cost {:.3f} x real time",
    "delay_s": "delay {:.2f} s",
    "cost_weight": "weight {:.3g}",
}


class Clock:
    """Wall-clock and processor seconds of a training, over all processes that have worked on it.

    Args:
        wall_s, cpu_s: seconds spent before this process, as returned by `read`.
    """

    def __init__(self, wall_s: float = 0.0, cpu_s: float = 0.0) -> None:
        self._earlier_wall_s, self._earlier_cpu_s = wall_s, cpu_s
        self.start()

    def start(self) -> None:
        """Start counting the time of this process."""
        self._wall_start, self._cpu_start = time.perf_counter(), time.process_time()

    @property
    def running_s(self) -> float:
        """Wall-clock seconds since `start`."""
        return time.perf_counter() - self._wall_start

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Return all seconds so far, by the names of the constructor's arguments; processors' summed over the ranks."""
        (cpu_s,) = ranks.sum([time.process_time() - self._cpu_start])
        return {
            "wall_s": round(self._earlier_wall_s + self.running_s, 1),
            "cpu_s": round(self._earlier_cpu_s + cpu_s, 1),
        }


class MetricsWriter(AbstractContextManager["MetricsWriter"]):
    """A writer of measurements to `metrics.jsonl` and TensorBoard in `folder`.

    Records of an interrupted process beyond `step` are dropped, since the training goes through these steps again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        records = [record for record in read_log(path) if record.get("step", 0) <= step] if path.exists() else []
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `__exit__`)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, part: str, values: dict[str, float]) -> None:
        """Write one record; `part` is `train` or `valid` and precedes each name."""
        record = {f"{part}/{name}": round(value, 6) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        for name, value in record.items():
            self._board.add_scalar(name, value, step)


def progress_line(step: int, max_steps: int, values: dict[str, float], lr: float, eta_s: float) -> str:
    """Return a line of the step, losses, gradient norm, learning rate, speed, data wait, memory and time left."""
    names = {"transducer": "rnnt", "simple": "simple", "ctc": "ctc", "distill": "distill"}
    losses = {f"{name}_per_token": f"{short}/token" for name, short in names.items()}
    parts = [
        f"step {step}/{max_steps}",
        f"loss/frame {values['loss_per_frame']:.4f}",
        *(f"{short} {values[name]:.3f}" for name, short in losses.items() if name in values),
        *(text.format(values[name]) for name, text in BRANCH_MEASURES.items() if name in values),
        f"grad {values['grad_norm']:.3g}",
        f"lr {lr:.2e}",
        f"{values['frames_per_s']:.0f} frames/s",
        f"wait {100 * values['data_wait']:.0f}%",
        f"mem {values['memory_gb']:.2f} GB",
        f"ETA {int(eta_s) // 60}:{int(eta_s) % 60:02d}",
    ]
    return " | ".join(parts)


def validation_line(values: dict[str, float]) -> str:
    """Return a line of all `values`."""
    return " | ".join(f"{name} {value:.3f}" for name, value in values.items())
