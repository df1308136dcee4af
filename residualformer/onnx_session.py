"""Networks in ONNX files on onnxruntime, loaded with little memory."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import onnxruntime

from residualformer.errors import UserError


def open_session(
    path: Path, advice: str, num_threads: int = 1, keeps_memory: bool = False, content: bytes | None = None
) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU; its memory is that of weights and largest activations.

    Args:
        advice: what to do when the file does not load.
        keeps_memory: of activations as well, which saves time; for a network whose batches are of few sizes.
        content: what to load in the place of the file's content.

    Raises:
        UserError: the file does not load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = keeps_memory  # in both, sizes of batches add up
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights: exactly
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path) if content is None else content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has an exception for each kind of damage
        raise UserError(f"{path} cannot be loaded ({reason_of(error)}): {advice}.") from error
    _free_memory()
    return session


def reason_of(error: Exception) -> str:
    """Return the first line of an error of onnxruntime."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _free_memory() -> None:
    """Return to the system what loading has freed, 100 MB of the paper's; of C libraries glibc alone can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
