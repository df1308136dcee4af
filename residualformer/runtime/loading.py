"""Loading of an exported folder (docs/format.md) for one of two engines: onnxruntime, or the memory-lean one."""

from __future__ import annotations

from pathlib import Path

from residualformer.runtime.model import ExportedModel
from residualformer.runtime.settings import read_settings


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
    settings = read_settings(folder)
    if lean:
        from residualformer.runtime.lean import LeanModel

        return LeanModel(folder, settings, int8)
    from residualformer.runtime.onnx import ONNX_MODELS  # onnxruntime takes 20 MB, which the lean engine saves

    return ONNX_MODELS[settings.type](folder, settings, int8, num_threads)
