"""The identity of a training: two runs of the same identity give the same weights.

The trainer compares identities before it goes on with a run folder, and the workflow's markers before a stage is
skipped. The values of the configuration are kept flat, as {dotted key: value}.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from residualformer.config.loading import complete, flat, flatten
from residualformer.config.schema import Config

# Sections and keys that change no weight; all others do, those to come as well.
NOT_DECISIVE = ("description", "decode", "data.num_workers")


class Change(NamedTuple):
    """A value that is not as it was."""

    name: str
    old: Any
    new: Any


def section_values(config: Config, sections: Collection[str]) -> dict[str, Any]:
    """Return the values of some sections or keys of a configuration, such as `tokens` or `data.speeds`."""
    return {key: value for key, value in flat(config).items() if _is_within(key, sections)}


def decisive_values(config: Config) -> dict[str, Any]:
    """Return the values of a configuration that decide the weights of its training."""
    return {key: value for key, value in flat(config).items() if not _is_within(key, NOT_DECISIVE)}


def training_identity(
    config: Config, tokens: str, warm_start: str, teacher: str | None = None, slow_share: float | None = None
) -> dict[str, Any]:
    """Return all that decides the weights of a training.

    Args:
        tokens: fingerprint of the tokenizer.
        warm_start: fingerprint of the weights to start from.
        teacher: fingerprint of the arbitrator's teacher, where there is one.
        slow_share: share of slow frames that is sought, where one is.
    """
    identity = {"config": decisive_values(config), "tokens": tokens, "warm_start": warm_start}
    optional = {"teacher": teacher, "slow_share": slow_share}
    return identity | {name: value for name, value in optional.items() if value is not None}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the values that differ; a key of the configuration that `old` lacks had the default it has now.

    So a key that is added later changes no run that was made before, and neither does a key without a meaning.
    """
    before, now = complete(old), complete(new)
    found = [Change(name, before.get(name), now.get(name)) for name in {**before, **now} if name in old or name in new]
    return [change for change in found if change.old != change.new]


def is_same_training(held: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Compare two identities of trainings; `held` may be that of an earlier version, or missing."""
    return held is not None and not changes(_flattened(held), _flattened(wanted))


def _flattened(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity in one level, the values of the configuration under their own keys."""
    others = {f"run {name}": value for name, value in identity.items() if name != "config"}
    return others | dict(flatten(identity.get("config", {})))


def _is_within(key: str, sections: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)
