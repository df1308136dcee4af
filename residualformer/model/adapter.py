"""Adapters: the difference of a model that was adapted to a speaker, a room or a domain, and its base.

If the shared weights were frozen (`train.freeze`), an adapter holds the residuals A, B, D and the norms of the layers:
one base model with small files serves many speakers. A base with an adapter is the adapted model, bit by bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from residualformer.config.loading import config_from_dict, config_to_dict, flat
from residualformer.constants import ADAPTER_KIND
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle, SavedModel, Weights, fingerprint, read_run
from residualformer.model.depth import at_depth
from residualformer.model.tensors import read_tensors, write_tensors
from residualformer.tensor_files import damaged

# Sections of the configuration that must be equal in the base and in the adapted model, and the keys that need not.
SAME = ("features.", "tokens.", "encoder.", "predictor.", "joiner.", "amnet.")
MAY_DIFFER = ("encoder.residual.", "encoder.dropout", "predictor.dropout", "predictor.token_dropout", "amnet.cost.")


@with_config(ConfigDict(strict=True))
class AdapterValues(TypedDict):
    """The values in an adapter beside its weights."""

    base: str  # fingerprint of the weights that it belongs to
    adapted: str  # fingerprint of those that come out
    removed: list[str]  # weights of the base that the adapted model does not have
    config: dict[str, Any]  # of the adapted model
    info: dict[str, Any]  # the record of its training


_VALUES = TypeAdapter(AdapterValues)


def write_adapter(path: Path, base: SavedModel, adapted: SavedModel) -> Weights:
    """Write the adapter that turns `base` into `adapted`; return the weights in the file.

    Raises:
        UserError: the tokens of the two differ, or their configurations differ in more than residuals.
    """
    if base.tokenizer.fingerprint != adapted.tokenizer.fingerprint:
        raise UserError(
            f"{adapted.file} writes other tokens than {base.file}: an adapter keeps its base's; use the adapted model "
            "itself"
        )
    before, now = flat(base.config), flat(adapted.config)
    others = [key for key in now if key.startswith(SAME) and not key.startswith(MAY_DIFFER) and before[key] != now[key]]
    if others:
        raise UserError(
            f"{adapted.file} is no adaptation of {base.file}: {others[0]} is {now[others[0]]} instead of "
            f"{before[others[0]]}; start its training from that model (--warm-start)"
        )
    own = {name: tensor for name, tensor in adapted.weights.items() if not _is_equal(base.weights.get(name), tensor)}
    values = AdapterValues(
        base=fingerprint(base.weights),
        adapted=fingerprint(adapted.weights),
        removed=sorted(base.weights.keys() - adapted.weights.keys()),
        config=config_to_dict(adapted.config),
        info=adapted.info,
    )
    write_tensors(path, ADAPTER_KIND, own, values)
    return own


def apply_adapter(base: SavedModel, path: Path) -> SavedModel:
    """Return the adapted model of which `path` is the adapter.

    Raises:
        UserError: the file is missing, damaged, or the adapter of another model.
    """
    if not path.is_file():
        raise UserError(f"adapter {path} is missing; `residualformer adapter BASE ADAPTED -o FILE` writes one")
    own, found = read_tensors(path, ADAPTER_KIND)
    try:
        values = _VALUES.validate_python(found)
    except ValidationError as error:
        raise damaged(path) from error
    if values["base"] != fingerprint(base.weights):
        raise UserError(
            f"{path} is an adapter of another model (weights {values['base']}) than {base.file} (weights "
            f"{fingerprint(base.weights)}): give the model that it was adapted from"
        )
    kept = {name: tensor for name, tensor in base.weights.items() if name not in values["removed"]}
    weights = kept | own
    if fingerprint(weights) != values["adapted"]:
        raise damaged(path)
    return SavedModel(base.file, weights, config_from_dict(values["config"], str(path)), base.tokenizer, values["info"])


def load_adapted(
    path: Path, adapter: Path | None, device: torch.device | str = "cpu", loops: int | None = None
) -> Bundle:
    """Load the model of a run folder, or of a model file, as `load_model` does.

    It is adapted if an adapter is given, and `at_depth` if `loops` are.
    """
    saved = read_run(path)
    saved = apply_adapter(saved, adapter) if adapter else saved
    loaded = (at_depth(saved, loops) if loops is not None else saved).build()
    loaded.model.to(device)
    return loaded


def _is_equal(old: torch.Tensor | None, new: torch.Tensor) -> bool:
    return old is not None and old.dtype == new.dtype and torch.equal(old, new)
