"""Adapters (`residualformer adapter`) for exported folders: residuals, norms and biases replace those of the base.

The files of a folder keep W, A, B and D apart, so an adapter needs only A, B and D; int8 files get them in 8 bits.
"""

from __future__ import annotations

import re
from pathlib import Path

from residualformer.constants import ADAPTER_KIND
from residualformer.errors import UserError
from residualformer.runtime.model import Array
from residualformer.runtime.settings import ModelSettings
from residualformer.tensor_files import read_arrays

# Names in a trained model and in docs/format.md, of the weights that are stored alike in both.
_NAMES = (
    (re.compile(r"encoder\.(layers\.\d+)\.attention\.(q|k|v|out)\.([ABD])"), r"\1.\2.\3"),
    (re.compile(r"encoder\.(layers\.\d+\.(?:up|down)\.[ABD])"), r"\1"),
    (re.compile(r"encoder\.(layers\.\d+\.norm[12]\.(?:weight|bias))"), r"\1"),
    (re.compile(r"encoder\.(bank\.\d+\.\w+\.bias)"), r"\1"),
    (re.compile(r"encoder\.(mean|std)"), r"\1"),
)
_TRAINING_ONLY = "training_only."
_INSTEAD = "merge them (`residualformer adapter --merge`) and export the result"


def adapted_weights(path: Path, settings: ModelSettings) -> dict[str, Array]:
    """Return the weights of an adapter, by their names in the file of the encoder.

    Raises:
        UserError: the file is missing, damaged, of another base, or changes weights that cannot be replaced here.
    """
    arrays, values = read_arrays(path, ADAPTER_KIND)
    if values.get("base") != settings.fingerprint:
        raise UserError(
            f"{path} is an adapter of another model (weights {values.get('base')}) than {settings.name} (weights "
            f"{settings.fingerprint}): give the export of the model that it was adapted from"
        )
    if settings.weights != "factored":
        raise UserError(
            f"the exported weights are {settings.weights}, not factored, so {path} cannot change them: {_INSTEAD}"
        )
    changed = [*arrays, *values.get("removed", [])]
    exported = {name: _exported_name(name, path) for name in changed if not name.startswith(_TRAINING_ONLY)}
    if removed := [name for name in exported if name not in arrays]:
        raise UserError(f"{path} is of a model without {removed[0]}, which an exported folder has: {_INSTEAD}")
    return {exported[name]: array for name, array in arrays.items() if name in exported}


def _exported_name(name: str, path: Path) -> str:
    for pattern, exported in _NAMES:
        if match := pattern.fullmatch(name):
            return match.expand(exported)
    raise UserError(f"{path} changes {name}, which exported folders store in another form: {_INSTEAD}")
