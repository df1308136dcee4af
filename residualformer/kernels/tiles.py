"""Tiles on the fastest engine that works; `tiles_plain.py` is the reference."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from residualformer.kernels.dispatch import engine_for, load_kernels, run_or_plain
from residualformer.kernels.tiles_plain import Tiles


def fastest_tiles(am: Tensor) -> type[Tiles]:
    """Return the class of tiles for tensors such as `am`, that of the requested engine or the fastest that works."""
    engine = engine_for("the loss of a joiner", "tiles", am)
    if engine == "plain":
        return Tiles
    kernels = load_kernels("tiles", engine)
    return kernels.NumbaTiles if engine == "numba" else kernels.TritonTiles


def run_tiles(kind: type[Tiles], compute: Callable[[type[Tiles]], None], fall_back: bool) -> type[Tiles]:
    """Call compute(kind); if that is Triton's and fails, and with `fall_back`, compute(Tiles). Return what worked."""
    kinds = {kind.ENGINE: kind, Tiles.ENGINE: Tiles}
    return kinds[run_or_plain(kind.ENGINE, lambda engine: compute(kinds[engine]), fall_back)]
