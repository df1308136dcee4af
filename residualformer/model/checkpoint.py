"""Models on disk: complete without any other file, read strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.config.schema import Config
from residualformer.constants import MODEL_FILE
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.hypothesis import word_separator
from residualformer.model.tensors import read_tensors, write_tensors
from residualformer.nn.transducer import Transducer, build_model
from residualformer.words.calibration import UNCALIBRATED, Calibration, read_calibration

Weights = dict[str, Tensor]


@with_config(ConfigDict(strict=True))
class TrainingRecord(TypedDict, total=False):
    """The record of a training, as far as it is read again."""

    command: str
    commit: str
    hardware: str
    versions: str
    data: str
    seed: int
    steps: int
    wall_s: float
    cpu_s: float
    stopped_early: bool  # since the dev set no longer improved
    candidates: list[dict[str, Any]]  # weights that could have become the model, and how good they are on the dev set
    valid: dict[str, float]  # measurements on the dev set
    parameters: dict[str, int]  # see `parameter_table`
    identity: dict[str, Any]  # see `training_identity`
    changes: list[dict[str, Any]]  # made to the configuration on the way
    fingerprint: str  # of the weights


@with_config(ConfigDict(strict=True))
class ModelValues(TypedDict):
    """What a model file holds beside the weights."""

    config: dict[str, Any]  # see `config_to_dict`
    tokenizer: dict[str, Any]  # see `Tokenizer.to_dict`
    info: TrainingRecord


_MODEL_VALUES = TypeAdapter(ModelValues)


@dataclass(frozen=True)
class SavedModel:
    """The content of a model file."""

    file: Path
    weights: Weights
    config: Config
    tokenizer: Tokenizer
    info: dict[str, Any]  # a `TrainingRecord`, and what else was noted

    def build(self) -> Bundle:
        """Build the model in eval mode, on the CPU; UserError if weights, tokens and configuration do not fit."""
        rows = self.weights.get("joiner.vocabulary.weight")
        if rows is not None and (rows.dim() == 0 or len(rows) != self.tokenizer.vocab_size):
            raise UserError(
                f"{self.file} writes {len(rows) if rows.dim() else 1} tokens, but its token set has "
                f"{self.tokenizer.vocab_size}; train it again"
            )
        model = build_model(self.config, self.tokenizer.vocab_size)
        model.separator = word_separator(self.tokenizer.pieces)
        load_weights(model, self.weights, str(self.file))
        mark = self.info.get("fingerprint") or fingerprint(self.weights)
        calibration = read_calibration(self.file.parent, mark)
        return Bundle(model.eval(), self.config, self.tokenizer, self.info, calibration)


@dataclass
class Bundle:
    """A trained model with all that decoding needs."""

    model: Transducer
    config: Config
    tokenizer: Tokenizer
    info: dict[str, Any]  # the record of its training: seed, commit, command, hardware, time, parameters
    calibration: Calibration = UNCALIBRATED  # of its words' times and confidences

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.model.parameters()).device


def save_model(path: Path, weights: Weights, config: Config, tokenizer: Tokenizer, info: dict[str, Any]) -> None:
    """Write a self-sufficient model: weights, configuration (features included), tokens and training record."""
    values = {"config": config_to_dict(config), "tokenizer": tokenizer.to_dict(), "info": info}
    write_tensors(path, "a model", weights, values)


def release_model(path: Path, model: SavedModel) -> str:
    """Write a model whose matrices are rounded to half precision, half as large a file, and return its fingerprint.

    It is read like any other model. Vectors (biases, norms, the statistics of the features) are small and stay as they
    are.

    Raises:
        UserError: a weight is too large for half precision.
    """
    stored = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in model.weights.items()}
    if large := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"{model.file}: {large[0]} has a weight beyond 65504, the largest number of half precision: pass that file "
            "on as it is."
        )
    mark = fingerprint({name: single(tensor) for name, tensor in stored.items()})
    before = model.info.get("fingerprint") or fingerprint(model.weights)
    info = model.info | {"fingerprint": mark, "released_from": before}
    save_model(path, stored, model.config, model.tokenizer, info)
    return mark


def single(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision in single precision, any other as it is."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Bundle:
    """Load the model of a run folder, or of a model file, in eval mode onto `device`; errors as of `read_run`."""
    loaded = read_run(Path(path)).build()
    loaded.model.to(device)
    return loaded


def read_run(path: Path) -> SavedModel:
    """Read the model file of a run folder, or `path` itself if it is no folder; errors as of `read_model`."""
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        raise UserError(f"{path} holds no {MODEL_FILE}: its training has not finished; run it to the end first")
    return read_model(path / MODEL_FILE if path.is_dir() else path)


def read_model(file: Path) -> SavedModel:
    """Read a model file.

    Raises:
        UserError: there is none, it is damaged, or its weights have another fingerprint than those that were trained.
    """
    weights, values = read_tensors(file, "a model")
    return parse_model(file, {name: single(tensor) for name, tensor in weights.items()}, values)


def parse_model(file: Path, weights: Weights, values: dict[str, Any]) -> SavedModel:
    """Return the content of a model file by its schema; errors as of `read_model`."""
    try:
        _MODEL_VALUES.validate_python(values)
        tokenizer = Tokenizer.from_dict(values["tokenizer"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file} is damaged at {place} ({first['msg']}); remove it and train again") from None
    except ValueError as error:
        raise UserError(f"{file} holds no sound token set ({error}); remove it and train again") from error
    config, info = config_from_dict(values["config"], str(file)), values["info"]
    if "fingerprint" in info and info["fingerprint"] != fingerprint(weights):
        raise UserError(f"{file} is damaged: its weights are not those that were trained; remove it and train again")
    return SavedModel(file, weights, config, tokenizer, info)


def load_weights(model: torch.nn.Module, weights: Weights, source: str) -> None:
    """Load weights with a strict `load_state_dict`; UserError with the first that does not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise UserError(f"the weights in {source} do not fit the configured model: {first[:160]}") from error


def save_weights(path: Path, weights: Weights) -> None:
    """Write weights to be averaged."""
    write_tensors(path, "weights", weights, {})


def read_weights(path: Path) -> Weights:
    """Read what `save_weights` wrote; UserError if it is missing or damaged."""
    return read_tensors(path, "weights")[0]


def average(every: Iterable[Weights]) -> Weights:
    """Average weights in float64; tensors that are not floating point are those of the last."""
    total: Weights = {}
    count = 0
    for weights in every:
        count += 1
        for name, tensor in weights.items():
            tensor = tensor.double() if tensor.is_floating_point() else tensor
            total[name] = total[name] + tensor if name in total and tensor.is_floating_point() else tensor
    return {n: (t / count).float() if t.is_floating_point() else t for n, t in total.items()}


def fingerprint(weights: Weights) -> str:
    """Return twelve hexadecimal digits that change when any weight does."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
