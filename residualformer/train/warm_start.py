"""Starting a residual model from its weight-sharing-only counterpart (ResidualTransformer, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from residualformer.errors import UserError
from residualformer.nn.transducer import Transducer

RESIDUAL_PARTS = ("A", "B", "D")


@dataclass(frozen=True)
class WarmStartReport:
    """Every key of the new model, as `mapped` (taken over) or `fresh` (a residual part, as initialised)."""

    mapped: list[str]
    fresh: list[str]

    def lines(self) -> list[str]:
        keys = [("mapped", name) for name in self.mapped] + [("fresh", name) for name in self.fresh]
        return [f"{what:6s} {name}" for what, name in sorted(keys, key=lambda key: key[1])]


def warm_start(model: Transducer, weights: dict[str, Tensor], source: str) -> WarmStartReport:
    """Copy `weights` into `model`; only residual parts may be missing from them, nothing may be left over.

    Raises:
        UserError: a key is left over, or missing without being a residual part, or of another shape.
    """
    own = model.state_dict()
    fresh = [name for name in own if name not in weights and name.rsplit(".", 1)[-1] in RESIDUAL_PARTS]
    wrong = [f"{name} is missing" for name in own if name not in weights and name not in fresh]
    wrong += [f"{name} is not part of the new model" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        advice = "the two configurations may differ in encoder.residual only"
        raise UserError(f"cannot start from {source}: {'; '.join(wrong[:3])}{more}; {advice}")
    model.load_state_dict(weights, strict=False)
    return WarmStartReport([name for name in own if name in weights], fresh)
