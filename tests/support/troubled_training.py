"""steps/train.py whose last rank, once, before an update, sends a signal to itself or its agent: see `TROUBLE`.

The pid of each rank is left beside the run folder.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

from residualformer.train.launch import run_rank
from residualformer.train.loop import Trainer

TRAIN = Path(__file__).resolve().parents[2] / "steps" / "train.py"
UPDATE = 3
update = Trainer.update


def troubled(trainer: Trainer, batches: list) -> Any:
    name, target = os.environ["TROUBLE"].split()
    folder, ranks = trainer.folder.parent, trainer.ranks
    (folder / f"rank.{os.getpid()}").touch()
    if trainer.step == UPDATE and ranks.rank == ranks.world - 1 and not (folder / "troubled").exists():
        (folder / "troubled").touch()
        os.kill({"rank": os.getpid(), "agent": os.getppid()}[target], signal.Signals[name])
    return update(trainer, batches)


Trainer.update = troubled  # type: ignore[method-assign]
spec = importlib.util.spec_from_file_location("train_step", TRAIN)  # as a module, so that `sys.argv` tells of this file
step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(step)
run_rank(step.main)
