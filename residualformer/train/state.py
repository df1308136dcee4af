"""The state of a training on disk: what it takes to continue with the same bits, and weights to average."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from residualformer.errors import UserError
from residualformer.model.checkpoint import read_weights, save_weights
from residualformer.model.tensors import read_tensors, write_tensors
from residualformer.train.left_out import Counts

log = logging.getLogger("residualformer")

KEPT_STATES = 2  # the current one, and the one before, should the current one be damaged
_TENSOR = "tensor"  # {_TENSOR: name} stands for a tensor among the values of a file
_STATE, _WEIGHTS, _BEST = "state", "step", "best"  # the files' names, before the number of updates


@with_config(ConfigDict(strict=True))
class Validation(TypedDict):
    """Measurements on the dev set after an update."""

    step: int
    values: dict[str, float]


@with_config(ConfigDict(strict=True, arbitrary_types_allowed=True))
class TrainingState(TypedDict):
    """All that decides how a training goes on."""

    identity: dict[str, Any]  # what must not change while a training goes on, see `Trainer`
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]  # `state_dict` of the optimizer; likewise of the phases
    phases: dict[str, Any]
    step: int  # updates made
    epoch: int  # epochs completed
    update_in_epoch: int  # updates of the current epoch that are made
    clock: dict[str, float]  # time spent, see `Clock.read`
    changes: list[dict[str, Any]]  # made to the configuration on the way, see `Trainer.resume`
    validations: list[Validation]  # so far
    left_out: Counts  # so far


_SCHEMA = TypeAdapter(TrainingState)


class CheckpointFolder:
    """The `checkpoints/` of a run: `state-<n>`, to continue from after update n; `step-<n>`, weights to average; and
    `best-<n>`, weights that were among the best on the dev set.

    Of the states the newest `KEPT_STATES` stay, of the weights the newest `keep`.
    """

    def __init__(self, path: Path, keep: int = 1) -> None:
        self.path, self.keep = path, keep

    @property
    def has_states(self) -> bool:
        """Whether there is a state to continue from, sound or not."""
        return bool(self._files(_STATE))

    def load_state(self) -> TrainingState | None:
        """Load the newest state that is not damaged, after a warning about those that are; None if there is none.

        Raises:
            UserError: there are states, but all of them are damaged.
        """
        states = self._files(_STATE)
        for path in reversed(states):
            try:
                return _read_state(path)
            except UserError as error:
                log.warning("%s; the one before is used, where there is one", error)
        if states:
            raise UserError(f"no state in {self.path} can be read; remove this folder to train from the start")
        return None

    def save_state(self, state: TrainingState, best: Collection[int] = ()) -> None:
        """Save the state; then remove all others but the one before it, all weights but the newest `keep`, and of the
        best ones those of other steps than `best`.
        """
        tensors: dict[str, Tensor] = {}
        values = {name: _pack(value, name, tensors) for name, value in state.items()}
        write_tensors(self._file(_STATE, state["step"]), "the state of a training", tensors, values)
        former = [path for path in self._files(_BEST) if step_of(path) not in best]
        for path in [*self._files(_STATE)[:-KEPT_STATES], *self._files(_WEIGHTS)[: -self.keep], *former]:
            path.unlink()

    def save_weights(self, weights: dict[str, Tensor], step: int, best: bool = False) -> None:
        """Save the weights after update `step`, to be averaged with others or as one of the best."""
        save_weights(self._file(_BEST if best else _WEIGHTS, step), weights)

    def newest_weights(self) -> list[Path]:
        """Return the newest `keep` files of weights, oldest first."""
        return self._files(_WEIGHTS)[-self.keep :]

    def best_weights(self, steps: Sequence[int]) -> list[Path]:
        """Return the files of the best weights after the updates `steps`, in that order, as far as they exist."""
        return [path for path in (self._file(_BEST, step) for step in steps) if path.is_file()]

    def load_weights(self, path: Path) -> dict[str, Tensor]:
        """Load weights to average; where they are damaged, those of the state after the same update, with a warning.

        Raises:
            UserError: the weights are damaged and that state is gone.
        """
        try:
            return read_weights(path)
        except UserError as error:
            state = self._file(_STATE, step_of(path))
            if not state.is_file():
                raise UserError(
                    f"{error}: remove {self.path} to train from the start, or that file alone to average the others"
                ) from error
            log.warning("%s; the same weights are in %s", error, state)
            return _read_state(state)["weights"]

    def remove_after(self, step: int) -> None:
        """Remove what was saved after the state from which the training continues."""
        for path in self._files(_STATE) + self._files(_WEIGHTS) + self._files(_BEST):
            if step_of(path) > step:
                path.unlink()

    def _file(self, name: str, step: int) -> Path:
        return self.path / f"{name}-{step}.safetensors"

    def _files(self, name: str) -> list[Path]:
        return sorted(self.path.glob(f"{name}-[0-9]*.safetensors"), key=step_of)


def step_of(path: Path) -> int:
    """Return the number of updates in the name of a state or of weights."""
    return int(path.stem.partition("-")[2])


def _read_state(path: Path) -> TrainingState:
    tensors, packed = read_tensors(path, "the state of a training")
    try:
        return _SCHEMA.validate_python({name: _unpack(value, tensors) for name, value in packed.items()})
    except (KeyError, ValidationError) as error:
        raise UserError(f"{path} is damaged or of another version of this toolkit ({error})") from error


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value`, nested mappings and sequences, as JSON values; move its tensors to `tensors`, by their places."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _pack(each, f"{name}/{key}", tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(each, f"{name}/{index}", tensors) for index, each in enumerate(value)]
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back into what `_pack` returned; mappings have texts as keys, sequences are lists."""
    if isinstance(value, dict):
        return tensors[value[_TENSOR]] if [*value] == [_TENSOR] else {k: _unpack(v, tensors) for k, v in value.items()}
    return [_unpack(each, tensors) for each in value] if isinstance(value, list) else value
