"""Choose who computes the transducer losses and the scan of branches: plain PyTorch, numba on a CPU, or Triton on CUDA.

`auto` takes the fastest engine that is installed and works. One that fails, because it does not import or cannot
compile for this machine, is given up for the rest of the process, with one warning. Where a GPU is there and Triton
cannot be used, the log says so once.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from residualformer.optional import OPTIONAL, is_installed, optional

log = logging.getLogger("residualformer")
ENGINES = ("auto", "plain", "numba", "triton")

_requested: ContextVar[str] = ContextVar("recursion engine", default="auto")
_failed: set[str] = set()  # engines given up in this process
_is_there = functools.cache(is_installed)


@contextmanager
def recursion_engine(name: str) -> Iterator[None]:
    """Run losses and scans of this thread on engine `name`, one of ENGINES, within the context; `plain` is all PyTorch.
    Raises ValueError if there is no such engine. A loss raises UserError if the engine's package is missing or broken.
    """
    if name not in ENGINES:
        raise ValueError(f"recursion engine is {name!r}; it must be one of {', '.join(ENGINES)}")
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def requested_engine() -> str:
    """Return the engine of the innermost `recursion_engine` context, `auto` outside any."""
    return _requested.get()


def is_usable(engine: str) -> bool:
    """Return True if the package of `engine` is installed and has not failed in this process."""
    return engine not in _failed and _is_there(engine)


@functools.cache
def load_kernels(kernel: str, engine: str) -> ModuleType:
    """Import `residualformer.kernels.<kernel>_<engine>`; raise UserError if the engine's package is missing."""
    if engine != "plain":
        optional(engine)
    return importlib.import_module(f"residualformer.kernels.{kernel}_{engine}")


@contextmanager
def give_up_on_failure(engine: str) -> Iterator[None]:
    """Turn an error within the context into a warning, and give up `engine`; the caller continues after the context."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a package can fail to import, or to compile for this machine, in one of many ways
        _failed.add(engine)
        log.warning("kernels run without %s, which failed, and therefore slower: %s", engine, error)


def engine_for(what: str, kernel: str, like: Tensor) -> str:
    """Return who computes `what`, by `load_kernels(kernel, engine)`: the requested engine, or the fastest that works.

    Numba's kernels are for float32 on a CPU; to request them for other tensors is to request `plain`.
    Raises UserError if the package of the requested engine is missing or broken.
    """
    requested, fits_numba = requested_engine(), like.device.type == "cpu" and like.dtype == torch.float32
    if requested == "auto":
        best = "numba" if fits_numba and is_usable("numba") else triton_or_plain(what, like)
        with give_up_on_failure(best):
            return _loaded(kernel, best)
        return "plain"
    return _loaded(kernel, "plain" if requested == "numba" and not fits_numba else requested)


def _loaded(kernel: str, engine: str) -> str:
    """Import the kernels of an engine, numba's are compiled, and return the engine; `plain` has none."""
    if engine != "plain":
        load_kernels(kernel, engine)
    return engine


def run_or_plain(engine: str, compute: Callable[[str], None], fall_back: bool) -> str:
    """Call compute(engine); if that is Triton and fails, and with `fall_back`, compute("plain"). Return what worked.

    Triton compiles a kernel when it first runs, so that nothing is written by one that cannot be compiled.
    """
    if fall_back and engine == "triton":
        with give_up_on_failure(engine):
            compute(engine)
            return engine
        engine = "plain"
    compute(engine)
    return engine


def triton_or_plain(kernel: str, like: Tensor, unfit: str | None = None) -> str:
    """Return the engine for tensors such as `like` where no other is in question: `triton` on CUDA, else `plain`.

    Args:
        kernel: what is computed, for the log.
        unfit: why Triton does not serve this call, although it serves others.
    """
    if like.device.type != "cuda":
        return "plain"
    if unfit is None and like.dtype != torch.float32:
        unfit = f"Triton's is for float32, not {str(like.dtype).removeprefix('torch.')}"
    if unfit is None and not _is_there("triton"):
        unfit = f"Triton is not installed; to get it: {OPTIONAL['triton'].install}"
    if unfit is not None:
        _warn_once(f"on {like.device.type} {kernel} runs in plain PyTorch, which is slower: {unfit}")
    return "triton" if unfit is None and is_usable("triton") else "plain"


@functools.cache
def _warn_once(sentence: str) -> None:
    log.warning(sentence)


def limit_for_device(limits: dict[str, int], tensor: Tensor) -> int:
    """Return the limit for the tensor's type of device, or that of `cuda` for a type that `limits` does not name."""
    return limits.get(tensor.device.type, limits["cuda"])
