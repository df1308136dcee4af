"""The options of `residualformer.load`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from residualformer.config.schema import DecodeConfig
from residualformer.errors import UserError


@dataclass(frozen=True)
class Options:
    """The choices when a model is loaded; see `loading.load`. Raises UserError for those that contradict each other."""

    greedy: bool = False
    beam: int | None = None
    streaming: bool = False
    threads: int | None = None
    device: str = "auto"
    int8: bool = False
    lean: bool = False
    words: bool | None = None
    adapter: Path | None = None
    lm: Path | None = None
    lm_weight: float | None = None
    ilm_weight: float | None = None
    loops: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads is {self.threads}; give 1 or more.")
        if self.greedy and self.beam is not None:
            raise UserError(f"greedy and beam={self.beam} contradict each other: leave one out.")
        for name in ("lm_weight", "ilm_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} is {value}; give 0 or more.")
        if self.lm_weight == 0 and (self.lm or self.ilm_weight is not None):
            raise UserError("lm_weight=0 is a search without language model: leave lm and ilm_weight out.")

    def with_language_model(self, decode: DecodeConfig) -> DecodeConfig:
        """Return the settings of a search with what is chosen of its language model.

        Raises:
            UserError: the search is greedy, or there is no language model that a weight could be of.
        """
        if self.lm_weight == 0:
            return replace(decode, lm=None)
        chosen: dict[str, Any] = {
            "lm": self.lm and str(self.lm),
            "lm_weight": self.lm_weight,
            "ilm_weight": self.ilm_weight,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        if given and decode.kind != "beam":
            raise UserError(
                f"{next(iter(given))} needs beam search, and this one is greedy: give beam=16, for example."
            )
        if given and self.lm is None and decode.lm is None:
            raise UserError(f"{next(iter(given))} needs a language model: give lm as well.")
        return replace(decode, **given)
