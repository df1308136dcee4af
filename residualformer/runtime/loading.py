"""Loading of an exported folder (`docs/format.md`) with one of the two engines: onnxruntime, or the memory-lean one."""

from __future__ import annotations

from pathlib import Path

from residualformer.errors import UserError
from residualformer.files import read_json
from residualformer.runtime.model import ExportedModel
from residualformer.runtime.settings import FORMAT, SETTINGS_FILE

TYPES = ("nemo", "ebranchformer")


def load_exported(folder: Path | str, num_threads: int = 1, int8: bool = False, lean: bool = False) -> ExportedModel:
    """Load the model in an exported folder.

    Args:
        folder: what `steps/export.py` wrote.
        num_threads: threads of onnxruntime.
        int8: use its files with weights of 8 bits.
        lean: run without onnxruntime, with one group's weights in memory at a time (`lean.py`) and on one thread.

    Raises:
        UserError: there is no such folder or no such files, they do not load, or the lean engine does not serve them.
    """
    folder = Path(folder)
    card = read_json(folder / SETTINGS_FILE, "give a folder that steps/export.py wrote")
    if card.get("format") != FORMAT or card.get("type") not in TYPES:
        raise UserError(
            f"{folder}/{SETTINGS_FILE} is of format {card.get('format')} and type '{card.get('type')}'; this version "
            f"reads format {FORMAT} of the types {', '.join(TYPES)}: export the model again."
        )
    try:
        if lean:
            from residualformer.runtime.lean import LeanModel

            return LeanModel(folder, card, int8)
        from residualformer.runtime.onnx import ONNX_MODELS  # onnxruntime takes 20 MB, which the lean engine saves

        return ONNX_MODELS[card["type"]](folder, card, int8, num_threads)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/{SETTINGS_FILE} is damaged ({error!r}): export the model again.") from error
