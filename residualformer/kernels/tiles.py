"""Tiles on the fastest engine that works; `tiles_plain.py` is the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from residualformer.kernels.dispatch import (
    give_up_on_failure,
    is_usable,
    load_kernels,
    requested_engine,
    run_or_plain,
    triton_or_plain,
)
from residualformer.kernels.tiles_plain import Tiles


def fastest_tiles(am: Tensor) -> type[Tiles]:
    """Return the class of tiles for tensors such as `am`: numba's or Triton's, or that of the requested engine.

    Numba's are for float32 on a CPU; for other tensors a request of numba is one of PyTorch.
    """
    engine = requested_engine()
    if engine == "triton":
        return load_kernels("tiles", "triton").TritonTiles
    if engine == "plain":
        return Tiles
    if am.device.type == "cpu" and am.dtype == torch.float32 and is_usable("numba"):
        with give_up_on_failure("numba"):
            return load_kernels("tiles", "numba").NumbaTiles
    if engine == "auto" and triton_or_plain("the loss of a joiner", am) == "triton":
        with give_up_on_failure("triton"):
            return load_kernels("tiles", "triton").TritonTiles
    return Tiles


def run_tiles(kind: type[Tiles], compute: Callable[[type[Tiles]], None], fall_back: bool) -> type[Tiles]:
    """Call compute(kind); if that is Triton's and fails, and with `fall_back`, compute(Tiles). Return what worked."""
    kinds = {kind.ENGINE: kind, Tiles.ENGINE: Tiles}
    return kinds[run_or_plain(kind.ENGINE, lambda engine: compute(kinds[engine]), fall_back)]
