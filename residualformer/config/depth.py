"""The keys of depth, a section of `encoder` in `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from residualformer.config.conditions import DEPTHS, TRANSFORMER
from residualformer.config.keys import Allowed, Count, Doc


@dataclass(frozen=True)
class DepthConfig:
    """How many layers of each group with shared weights are run: one model for several depths (docs/depth.md)."""

    loops: Annotated[
        list[Count],
        TRANSFORMER,
        Allowed("numbers of layers, falling, the first that of the largest group"),
        Doc("of each group its first so many layers are run: the depths to serve, one drawn for each batch; []: all"),
    ] = field(default_factory=list)
    arbitrator: Annotated[bool, DEPTHS, Doc("a network (`amnet.arbitrator`) chooses the depth of each chunk")] = False
