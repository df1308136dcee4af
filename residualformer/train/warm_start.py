"""Initialization of a model from the weights of another one.

A residual model starts from its counterpart with weight sharing only (ResidualTransformer, section 4.3); a compressed
recurrent encoder from a dense or factorised one; branches from a compressed encoder (AmNets, section 3); a Transformer
with an arbitrator from one without. Any model may start from one that writes other tokens: rows of the tokens that both
have are copied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from residualformer.compress.factorise import factorise, refactorise
from residualformer.config.schema import EncoderConfig
from residualformer.errors import UserError
from residualformer.nn.arbitrator import ARBITRATOR
from residualformer.nn.linear import RESIDUAL_PARTS
from residualformer.nn.sharing import layer_groups
from residualformer.nn.transducer import Transducer

Weights = dict[str, Tensor]

BACKLOG = f"{ARBITRATOR}backlog"
TRAINING_ONLY = "training_only."  # prefix of what the loss alone needs
_ADVICE = (
    "the two configurations may differ in encoder.residual only, in amnet by more compression, or by an arbitrator"
)


@dataclass(frozen=True)
class SharedTokens:
    """The tokens that a new vocabulary shares with that of the source, by their text or, failing that, in another case.

    Blank and unknown are always among them.
    """

    new: list[int]  # their ids in the new vocabulary
    old: list[int]  # and in that of the source
    new_size: int
    old_size: int

    @property
    def are_all(self) -> bool:
        """Whether the new vocabulary has no other tokens."""
        return len(self.new) == self.new_size

    def __str__(self) -> str:
        return f"{len(self.new)} of {self.new_size} tokens are those of the source"


def shared_tokens(old: Sequence[str] | None, new: Sequence[str]) -> SharedTokens | None:
    """Return what the vocabulary `new` shares with `old`, of the source; None if they are the same, or `old` is."""
    if old is None or list(old) == list(new):
        return None
    by_text = {piece: number for number, piece in enumerate(old)}
    by_letters = {piece.casefold(): number for piece, number in reversed([*by_text.items()])}
    found = [(number, by_text.get(piece, by_letters.get(piece.casefold()))) for number, piece in enumerate(new)]
    pairs = [(number, source) for number, source in found if source is not None]
    return SharedTokens([number for number, _ in pairs], [source for _, source in pairs], len(new), len(old))


@dataclass(frozen=True)
class WarmStartReport:
    """The origin of every weight of the new model, by name."""

    mapped: list[str]  # copied
    # Initialized at random: residual parts, an arbitrator, the masks of weights that are not pruned yet.
    fresh: list[str]
    # Computed from other weights: factors of a dense matrix or of other factors, a sparse branch's copy, other rows.
    converted: list[str]
    in_part: list[str] = field(default_factory=list)  # copied in the rows of shared tokens, initialized in others
    left_out: list[str] = field(default_factory=list)  # those of the source's loss or arbitrator that do not fit
    tokens: SharedTokens | None = None  # None: the tokens are the same

    def counts(self) -> str:
        """Return how many weights are of each kind, and which parts of the model have fresh ones."""
        told = f"{len(self.mapped)} keys mapped, {len(self.converted)} converted, {len(self.fresh)} fresh"
        if self.fresh:
            told += f" (in {', '.join(sorted({'.'.join(name.split('.')[:2]) for name in self.fresh}))})"
        if self.tokens:
            told += f"; {self.tokens}"
            told += f", the rows of others are fresh in {', '.join(self.in_part)}" if self.in_part else ""
        if self.left_out:
            told += f"; not needed: {', '.join(self.left_out)}"
        return told

    def lines(self) -> list[str]:
        """Return one line per weight, sorted by name."""
        kinds = {"mapped": self.mapped, "fresh": self.fresh, "converted": self.converted, "in part": self.in_part}
        kinds["left out"] = self.left_out
        return [f"{kind:9s} {name}" for name, kind in sorted((name, kind) for kind in kinds for name in kinds[kind])]


def warm_start(model: Transducer, weights: Weights, source: str, tokens: SharedTokens | None = None) -> WarmStartReport:
    """Copy `weights` into `model`, compressing those of which `model` has a compressed form.

    Residual parts, an arbitrator as a whole, and what the loss alone needs may be missing from `weights`; all else in
    `weights` must be used, but for an arbitrator of another width or other inputs.

    Args:
        source: a description of where the weights come from.
        tokens: what the vocabularies share; None if they are the same.

    Raises:
        UserError: a weight is missing, unused or of another shape, or a rank is higher than that of `source`.
    """
    target = model.state_dict()
    converted, used = _convert(target, weights)
    in_part: Weights = {}
    if tokens:
        rows = _rows_of_shared_tokens(model, weights, tokens)
        converted, in_part = (converted | rows, {}) if tokens.are_all else (converted, rows)
    given = {name: value for name, value in weights.items() if name not in used} | converted | in_part
    of_loss = [name for name in given if name.startswith(TRAINING_ONLY) and _shape(given, name) != _shape(target, name)]
    replaced = _has_arbitrator(target) and _arbitrator_is_new(target, weights)
    left_out = of_loss + [name for name in given if replaced and name.startswith(ARBITRATOR)]
    given = {name: value for name, value in given.items() if name not in left_out}
    fresh = [name for name in target if name not in given and _may_be_fresh(name, replaced, converted)]
    problems = [
        *(f"{name} is missing" for name in target if name not in given and name not in fresh),
        *(f"{name} is not part of the new model" for name in given if name not in target),
        *(
            f"{name} is {tuple(given[name].shape)} instead of {tuple(value.shape)}"
            for name, value in target.items()
            if name in given and given[name].shape != value.shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(f"cannot start from {source}: {'; '.join(problems[:3])}{more}; {_ADVICE}")
    model.load_state_dict(given, strict=False)
    mapped = [name for name in target if name in given and name not in converted and name not in in_part]
    return WarmStartReport(mapped, fresh, list(converted), sorted(in_part), left_out, tokens)


def _rows_of_shared_tokens(model: Transducer, weights: Weights, tokens: SharedTokens) -> Weights:
    """Return the new model's weights that have a row for each label, with the source's rows of shared tokens."""
    found = {}
    for name, value in model.state_dict().items():
        old = weights.get(name)
        if name not in model.label_parameters() or old is None:
            continue
        if len(old) == tokens.old_size and old.shape[1:] == value.shape[1:]:
            found[name] = value.clone()
            found[name][tokens.new] = old[tokens.old].to(value)
    return found


def _shape(weights: Weights, name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def check_same_layers(config: EncoderConfig, source_config: EncoderConfig, source: str) -> None:
    """Check that weights which fit by their shapes also belong to the same layers and heads.

    Other groups of layers, if as many, and other heads, if as wide in all, have weights of the same shapes.
    Raises UserError if `source_config`, of the encoder in `source`, has other groups or heads than `config`.
    """
    if config.kind != "transformer" or source_config.kind != "transformer":
        return
    groups, source_groups = (layer_groups(each.sharing, each.num_layers) for each in (config, source_config))
    same = {"sharing": groups == source_groups, "num_heads": config.num_heads == source_config.num_heads}
    for key in same:
        if not same[key]:
            raise UserError(
                f"cannot start from {source}: its encoder.{key} is {getattr(source_config, key)}, but "
                f"{getattr(config, key)} is configured; {_ADVICE}"
            )


def _may_be_fresh(name: str, arbitrator_is_new: bool, converted: Weights) -> bool:
    if name.startswith(ARBITRATOR):  # that for the backlog begins at zero
        return arbitrator_is_new or name == BACKLOG
    if name.startswith(TRAINING_ONLY):
        return True
    return name.rsplit(".", 1)[-1] in RESIDUAL_PARTS or re.sub(r"\.mask$", ".W", name) in converted


def _has_arbitrator(weights: Weights) -> bool:
    return any(name.startswith(ARBITRATOR) for name in weights)


def _arbitrator_is_new(target: Weights, weights: Weights) -> bool:
    """Return whether `weights` have no arbitrator, or one of another width or other inputs, which is of no use.

    Whether it has heard of the backlog changes no other weight.
    """
    names = {name for name in (*target, *weights) if name.startswith(ARBITRATOR)} - {BACKLOG}
    return any(_shape(target, name) != _shape(weights, name) for name in names)


def _convert(target: Weights, weights: Weights) -> tuple[Weights, set[str]]:
    """Compute the weights of `target`, a recurrent encoder's, that `weights` holds in another form only.

    Return these, and the names in `weights` that they were computed from.
    """
    converted: Weights = {}
    used: set[str] = set()
    for name, value in target.items():
        if match := re.fullmatch(r"(encoder\.layers\..+)\.P1", name):
            factors = _factors(match[1], value.size(1), target, weights)
            converted |= factors
            used |= {key for key in (f"{match[1]}.W", *factors) if factors and key in weights}
        elif (match := re.fullmatch(r"(encoder\.layers\..+)\.\d+\.W", name)) and f"{match[1]}.W" in weights:
            converted[name] = weights[f"{match[1]}.W"]
            used.add(f"{match[1]}.W")
        elif name.endswith(".bias") and name in weights and value.dim() == 2 and weights[name].dim() == 1:
            converted[name] = weights[name].expand(len(value), -1)  # each sparse branch has its own
    return converted, used


def _factors(stem: str, rank: int, target: Weights, weights: Weights) -> Weights:
    """Compute P1 and P2 of the matrix `stem`, unless `weights` has them in their final form.

    Where the factors of one branch become those of several, they are ordered by singular value again, so that the
    first columns are the best ones; factors that branches already share have learned their order.
    """
    name1, name2 = f"{stem}.P1", f"{stem}.P2"
    if f"{stem}.W" in weights:
        p1, p2 = factorise(weights[f"{stem}.W"], rank)
    elif name1 in weights and name2 in weights:
        p1, p2 = weights[name1], weights[name2]
        branches_are_new = _has_arbitrator(target) and not _has_arbitrator(weights)
        if p1.size(1) == rank and not branches_are_new:
            return {}
        p1, p2 = refactorise(p1, p2, rank)
    else:
        return {}
    return {name1: p1, name2: p2}
