"""Models and checkpoints on disk: written atomically, read strictly, complete without any other file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.config.schema import Config
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.files import replacing
from residualformer.nn.transducer import Transducer, build_model

MODEL_FILE = "model.pt"
MODEL_ENTRIES = ("weights", "config", "tokenizer", "info")
# The types of the entries of models and of the states that trainings continue from.
TYPES: dict[str, type] = {
    **dict.fromkeys(MODEL_ENTRIES, dict),
    **dict.fromkeys(("identity", "optimizer", "phases", "clock", "random"), dict),
    **dict.fromkeys(("step", "epoch", "batch_in_epoch"), int),
}


@dataclass
class Bundle:
    """A trained model with all that decoding needs."""

    model: Transducer
    config: Config
    tokenizer: Tokenizer
    info: dict[str, Any]  # the record of its training: seed, commit, command, hardware, time, parameters

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.model.parameters()).device


def save(value: Any, path: Path) -> None:
    """Write tensors and plain values with `torch.save`, atomically; OSError when the disk is full."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(value, file)


def load(path: Path, *needed: str) -> Any:
    """Read tensors and plain values from `path` to the CPU.

    Raises:
        UserError: the file is missing or damaged, lacks a `needed` entry, or holds one of another type than `TYPES`.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; train the model first (stages 4 and 5)")
    try:
        with ZipFile(path) as archive:
            if archive.testzip():  # torch does not look at the check sums
                raise BadZipFile("a check sum is wrong")
        value = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise  # not damaged: nothing to remove
    except Exception as error:  # damage makes the unpickler raise nearly anything
        raise UserError(f"{path} is not a checkpoint or is damaged; remove it and train again") from error
    if needed and not (isinstance(value, dict) and set(needed) <= set(value)):
        raise UserError(f"{path} is not a checkpoint of this toolkit, which holds {', '.join(needed)}; train again")
    for name in needed:
        _check_type(name, value[name], path)
    return value


def save_model(
    path: Path, weights: dict[str, Tensor], config: Config, tokenizer: Tokenizer, info: dict[str, Any]
) -> None:
    """Write a self-sufficient model: weights, configuration (features included), tokens and training record."""
    value = {"weights": weights, "config": config_to_dict(config), "tokenizer": tokenizer.to_dict(), "info": info}
    save(value, path)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Bundle:
    """Load the model of a run folder, or of a `model.pt`, in eval mode onto `device`.

    Raises:
        UserError: there is none, it is damaged (its weights have another fingerprint than those that were written), or
            its tokens do not fit its weights.
    """
    path = Path(path)
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        raise UserError(f"{path} holds no {MODEL_FILE}: its training has not finished; run it to the end first")
    file = path / MODEL_FILE if path.is_dir() else path
    loaded = bundle(load(file), file)
    loaded.model.to(device)
    return loaded


def bundle(value: Any, file: Path) -> Bundle:
    """Build the model in eval mode from the content of a model file; errors as of `load_model`."""
    if not isinstance(value, dict) or not set(MODEL_ENTRIES) <= set(value):
        raise UserError(f"{file} is not a model of this toolkit; give a run folder or its {MODEL_FILE}")
    for name in MODEL_ENTRIES:
        _check_type(name, value[name], file)
    config, weights = config_from_dict(value["config"], str(file)), value["weights"]
    tokenizer = model_tokenizer(value, file)
    rows = weights.get("joiner.vocabulary.weight")
    if rows is not None and (rows.dim() == 0 or len(rows) != tokenizer.vocab_size):
        raise UserError(
            f"{file} writes {len(rows) if rows.dim() else 1} tokens, but its token set has {tokenizer.vocab_size}; "
            "train it again"
        )
    model = build_model(config, tokenizer.vocab_size)
    load_weights(model, weights, str(file))
    if value["info"].get("fingerprint", fingerprint(weights)) != fingerprint(weights):
        raise UserError(f"{file} is damaged: its weights are not those that were written; remove it and train again")
    return Bundle(model.eval(), config, tokenizer, value["info"])


def model_tokenizer(value: dict[str, Any], file: Path) -> Tokenizer:
    """Return the tokenizer within the content of a model file; UserError if it is none."""
    try:
        return Tokenizer.from_dict(value["tokenizer"])
    except ValueError as error:
        raise UserError(f"{file} holds no sound token set ({error}); remove it and train again") from error


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights with a strict `load_state_dict`; UserError with the first that does not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise UserError(f"the weights in {source} do not fit the configured model: {first[:160]}") from error


def average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Average the weights in `paths`, in float64; tensors that are not floating point are those of the last."""
    total: dict[str, Tensor] = {}
    for path in paths:
        weights = load(path)
        _check_type("weights", weights, path)
        for name, tensor in weights.items():
            tensor = tensor.double() if tensor.is_floating_point() else tensor
            total[name] = total[name] + tensor if name in total and tensor.is_floating_point() else tensor
    return {n: (t / len(paths)).float() if t.is_floating_point() else t for n, t in total.items()}


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Return twelve hexadecimal digits that change when any weight does."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _check_type(name: str, value: Any, file: Path) -> None:
    """Raise UserError if an entry of a file is not of its type in `TYPES`; weights are dense tensors by name."""
    sound = isinstance(value, TYPES.get(name, object)) and not (isinstance(value, bool) and TYPES.get(name) is int)
    if sound and name == "weights":
        sound = all(isinstance(key, str) and _is_dense(tensor) for key, tensor in value.items())
    if not sound:
        raise UserError(f"{file} is damaged: its entry '{name}' is of another type; remove it and train again")


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta
