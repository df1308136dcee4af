"""The identity of a training: two runs of the same identity give the same weights.

The trainer compares identities before it goes on with a run folder, and the workflow's markers before a stage is
skipped. The values of the configuration are kept flat, as {dotted key: value}.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from residualformer.config.loading import complete, flat, flatten
from residualformer.config.schema import Config
from residualformer.errors import UserError

# Sections and keys that change no weight; all others do, those to come as well.
NOT_DECISIVE = ("description", "decode", "lm", "data.num_workers", "data.max_bad_share", "amnet.controls")
# Sections and keys that may change while a training goes on, on purpose. Layers, tokens and what a training started
# from may not; nor may the optimizer, whose state is of its kind, and the loss, which has weights of its own.
CHANGEABLE = ("train", "data", "encoder.dropout", "predictor.dropout", "predictor.token_dropout")
FIXED = ("train.optimizer.kind", "train.optimizer.factors", "train.freeze")
# Of these, the ones that leave the updates of an epoch as they are: their number says where a training stands.
SAME_UPDATES = ("train", "data.waveform", "data.variation", "data.specaugment", "encoder", "predictor")
OTHER_UPDATES = ("train.seed", "train.batches_per_update")

IfChanged = Literal["refuse", "aside", "go-on"]  # what to do with a training of another identity
IF_CHANGED: tuple[IfChanged, ...] = get_args(IfChanged)


class Change(NamedTuple):
    """A value that is not as it was."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name} {self.old} -> {self.new}"

    @property
    def may_be_wanted(self) -> bool:
        """Whether a training can go on with the new value."""
        return _is_within(self.name, CHANGEABLE) and not _is_within(self.name, FIXED)

    @property
    def moves_updates(self) -> bool:
        """Whether the updates of an epoch are others than they were."""
        return not _is_within(self.name, SAME_UPDATES) or self.name in OTHER_UPDATES


def section_values(config: Config, sections: Collection[str]) -> dict[str, Any]:
    """Return the values of some sections or keys of a configuration, such as `tokens` or `data.speeds`."""
    return {key: value for key, value in flat(config).items() if _is_within(key, sections)}


def decisive_values(config: Config) -> dict[str, Any]:
    """Return the values of a configuration that decide the weights of its training."""
    return {key: value for key, value in flat(config).items() if not _is_within(key, NOT_DECISIVE)}


def training_identity(
    config: Config,
    tokens: str,
    warm_start: str,
    teacher: str | None = None,
    slow_share: float | None = None,
    distill: str | None = None,
) -> dict[str, Any]:
    """Return all that decides the weights of a training.

    Args:
        tokens: fingerprint of the tokenizer.
        warm_start: fingerprint of the weights to start from.
        teacher: fingerprint of the arbitrator's teacher, where there is one.
        slow_share: share of slow frames that is sought, where one is.
        distill: fingerprint of the teacher whose outputs are learned, where there is one.
    """
    identity = {"config": decisive_values(config), "tokens": tokens, "warm_start": warm_start}
    optional = {"teacher": teacher, "slow_share": slow_share, "distill": distill}
    return identity | {name: value for name, value in optional.items() if value is not None}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the values that differ; a key of the configuration that `old` lacks had the default it has now.

    So a key that is added later changes no run that was made before, and neither does a key without a meaning.
    """
    before, now = complete(old), complete(new)
    found = [Change(name, before.get(name), now.get(name)) for name in {**before, **now} if name in old or name in new]
    return [change for change in found if change.old != change.new]


def training_changes(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two identities of trainings; `held` may be that of an earlier version."""
    return changes(_flattened(held), _flattened(wanted))


def refuse_changes(what: str, found: Sequence[Change], if_changed: IfChanged) -> None:
    """Raise UserError if a training `what` cannot go on with the changes `found`, or may not by `if_changed`."""
    told = "; ".join(map(str, found))
    if if_changed == "go-on":
        told = "; ".join(str(change) for change in found if not change.may_be_wanted)
        if told:
            raise UserError(f"{what} cannot go on with {told}: move it away, or train in another folder")
    elif if_changed == "refuse" and found:
        raise UserError(
            f"{what} is of another configuration ({told}): --if-changed go-on continues with the new values where that "
            "is possible, --if-changed aside moves it to old/ and trains from the start"
        )


def _flattened(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity in one level, the values of the configuration under their own keys."""
    others = {f"run {name}": value for name, value in identity.items() if name != "config"}
    return others | dict(flatten(identity.get("config", {})))


def _is_within(key: str, sections: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)
