"""The state of a training on disk: what it takes to continue with the same bits, and weights to average."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from residualformer.kernels.dropout import pool_states, restore_pools
from residualformer.model import checkpoint


class TrainingState(TypedDict):
    """All that decides how a training goes on."""

    identity: dict[str, Any]  # what must not change while a training goes on, see `Trainer`
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]  # `state_dict` of the optimizer; likewise of the phases
    phases: dict[str, Any]
    step: int  # updates made
    epoch: int  # epochs completed
    batch_in_epoch: int  # batches of the current epoch that are used up
    clock: dict[str, float]  # time spent, see `Clock.read`
    random: dict[str, Any]  # see `random_state`


def random_state() -> dict[str, Any]:
    """Return the states of torch's generators and of the pools of dropout masks."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "dropout": pool_states()}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    restore_pools(state["dropout"])


class CheckpointFolder:
    """The `checkpoints/` of a run: `resume.pt`, the state to continue from, and `step-<n>.pt`, weights to average.

    Of the latter only the newest `keep` stay.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.resume_file = path / "resume.pt"

    def load_state(self) -> TrainingState | None:
        """Load the state, or return None if there is none; raise UserError if the file is damaged."""
        if not self.resume_file.is_file():
            return None
        state: TrainingState = checkpoint.load(self.resume_file, *TrainingState.__annotations__)
        return state

    def save_state(self, state: TrainingState) -> None:
        """Replace the saved state, then remove all files of weights except the newest `keep`."""
        checkpoint.save(state, self.resume_file)
        for path in self._weight_files()[: -self.keep]:
            path.unlink()

    def save_weights(self, weights: dict[str, Tensor], step: int) -> None:
        """Save the weights after update `step`."""
        checkpoint.save(weights, self.path / f"step-{step}.pt")

    def newest_weights(self) -> list[Path]:
        """Return the newest `keep` files of weights, oldest first."""
        return self._weight_files()[-self.keep :]

    def remove_weights_after(self, step: int) -> None:
        """Remove the weights that a killed process saved after the state from which the training continues."""
        for path in self._weight_files():
            if _step_of(path) > step:
                path.unlink()

    def _weight_files(self) -> list[Path]:
        return sorted(self.path.glob("step-[0-9]*.pt"), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
