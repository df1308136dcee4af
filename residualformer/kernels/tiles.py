"""Tiles on the fastest engine that works; `tiles_plain.py` is the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.kernels.dispatch import give_up_on_failure, is_usable, load_kernels, requested_engine
from residualformer.kernels.tiles_plain import Tiles


def fastest_tiles(am: Tensor) -> type[Tiles]:
    """Return the class of tiles for tensors such as `am`: numba's for float32 on a CPU, unless `plain` is requested."""
    suitable = am.device.type == "cpu" and am.dtype == torch.float32 and requested_engine() in ("auto", "numba")
    if suitable and is_usable("numba"):
        with give_up_on_failure("numba"):
            return load_kernels("tiles", "numba").NumbaTiles
    return Tiles
