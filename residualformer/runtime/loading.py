"""Loading of an exported folder (docs/format.md) for one of two engines: onnxruntime, or the memory-lean one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from residualformer.runtime.adapter import adapted_weights
from residualformer.runtime.model import ExportedModel
from residualformer.runtime.settings import read_settings
from residualformer.words.calibration import UNCALIBRATED


def load_exported(
    folder: Path | str, num_threads: int = 1, int8: bool = False, lean: bool = False, adapter: Path | str | None = None
) -> ExportedModel:
    """Load the model in an exported folder.

    Args:
        folder: what `steps/export.py` wrote.
        num_threads: threads of onnxruntime.
        int8: use its files with weights of 8 bits.
        lean: run without onnxruntime, with one group's weights in memory at a time (`lean.py`) and on one thread.
        adapter: file of `residualformer adapter` that adapts the model, if its weights are exported factored.

    Raises:
        UserError: there is no such folder or no such files, they do not load, the lean engine does not serve them, or
            the adapter does not fit.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    adapted = None
    if adapter is not None:
        adapted = adapted_weights(Path(adapter), settings)
        settings = replace(settings, calibration=UNCALIBRATED)  # it is the base's
    if lean:
        from residualformer.runtime.lean import LeanModel

        return LeanModel(folder, settings, int8, adapted)
    from residualformer.runtime.onnx import ONNX_MODELS  # onnxruntime takes 20 MB, which the lean engine saves

    return ONNX_MODELS[settings.type](folder, settings, int8, num_threads, adapted)
