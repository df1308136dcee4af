"""Starting a model from another one's weights.

A residual model from its weight-sharing-only counterpart (ResidualTransformer, section 4.3); a compressed recurrent
encoder from a dense or factorised one, branches from a compressed one (AmNets, section 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

from residualformer.compress.factorise import factorise, refactorise
from residualformer.config.schema import EncoderConfig
from residualformer.errors import UserError
from residualformer.nn.sharing import layer_groups
from residualformer.nn.transducer import Transducer

RESIDUAL_PARTS = ("A", "B", "D")
ARBITRATOR = "encoder.arbitrator."
_ADVICE = "the two configurations may differ in encoder.residual only, or in amnet by more compression"


@dataclass(frozen=True)
class WarmStartReport:
    """Every key of the new model.

    Attributes:
        mapped: taken over as they are.
        fresh: as initialised: residual parts, an arbitrator, the masks of weights that are not pruned yet.
        converted: made of other keys: factors of a dense matrix or of other factors, a sparse branch's copy.
    """

    mapped: list[str]
    fresh: list[str]
    converted: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        keys = [(name, what) for what in ("mapped", "fresh", "converted") for name in getattr(self, what)]
        return [f"{what:9s} {name}" for name, what in sorted(keys)]


def warm_start(model: Transducer, weights: dict[str, Tensor], source: str) -> WarmStartReport:
    """Copy `weights` into `model`, compressing what it wants compressed; nothing may be left over.

    Missing from `weights` may be residual parts, and all of an arbitrator.

    Raises:
        UserError: a key is left over, or missing, or of another shape; a rank is higher than that of `source`.
    """
    own = model.state_dict()
    made, used = _converted(own, weights)
    given = {name: value for name, value in weights.items() if name not in used} | made
    fresh = [name for name in own if name not in given and _may_be_fresh(name, weights, made)]
    wrong = [f"{name} is missing" for name in own if name not in given and name not in fresh]
    wrong += [f"{name} is not part of the new model" for name in given if name not in own]
    wrong += [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(f"cannot start from {source}: {'; '.join(wrong[:3])}{more}; {_ADVICE}")
    model.load_state_dict(given, strict=False)
    return WarmStartReport([name for name in own if name in given and name not in made], fresh, list(made))


def refuse_other_use(config: EncoderConfig, held: EncoderConfig, source: str) -> None:
    """UserError where the weights of encoder `held` may fit that of `config` by their shapes, but are for other layers.

    As many groups of other layers, and as many numbers cut into other heads, have the same shapes.
    """
    if config.kind != "transformer" or held.kind != "transformer":
        return
    groups = [layer_groups(each.sharing, each.num_layers) for each in (config, held)]
    for key, alike in (("sharing", groups[0] == groups[1]), ("num_heads", config.num_heads == held.num_heads)):
        if not alike:
            raise UserError(
                f"cannot start from {source}: its encoder.{key} is {getattr(held, key)}, but {getattr(config, key)} "
                f"is configured; {_ADVICE}"
            )


def _may_be_fresh(name: str, weights: dict[str, Tensor], made: dict[str, Tensor]) -> bool:
    if name.startswith(ARBITRATOR):
        return not _has_arbitrator(weights)
    return name.rsplit(".", 1)[-1] in RESIDUAL_PARTS or re.sub(r"\.mask$", ".W", name) in made


def _has_arbitrator(weights: dict[str, Tensor]) -> bool:
    return any(name.startswith(ARBITRATOR) for name in weights)


def _converted(own: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """What of a recurrent encoder has to be made of other keys of `weights`, and these keys."""
    made, used = {}, set()
    for name, value in own.items():
        if match := re.fullmatch(r"(encoder\.layers\..+)\.P1", name):
            made |= (factors := _factors(match[1], value.size(1), own, weights))
            used |= {key for key in (f"{match[1]}.W", *factors) if factors and key in weights}
        elif (match := re.fullmatch(r"(encoder\.layers\..+)\.\d+\.W", name)) and f"{match[1]}.W" in weights:
            made[name] = weights[f"{match[1]}.W"]
            used.add(f"{match[1]}.W")
        elif name.endswith(".bias") and name in weights and value.dim() == 2 and weights[name].dim() == 1:
            made[name] = weights[name].expand(len(value), -1)  # each sparse branch has its own
    return made, used


def _factors(stem: str, rank: int, own: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """P1 and P2 of the matrix `stem`; nothing where those of `weights` serve as they are.

    Factors of one branch that become those of several are ordered by singular value again, so that the first columns
    are the best ones; factors that branches share already have learned their order.
    """
    names = f"{stem}.P1", f"{stem}.P2"
    if f"{stem}.W" in weights:
        return dict(zip(names, factorise(weights[f"{stem}.W"], rank), strict=True))
    if not set(names) <= weights.keys():
        return {}
    held = [weights[name] for name in names]
    branches_are_new = _has_arbitrator(own) and not _has_arbitrator(weights)
    if held[0].size(1) == rank and not branches_are_new:
        return {}
    return dict(zip(names, refactorise(*held, rank), strict=True))
