"""Parameters that are frozen, or learn at rates of their own, chosen by shell patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import accumulate

import torch
from torch import nn

from residualformer.config.schema import Config, TrainConfig
from residualformer.errors import UserError, closest
from residualformer.nn.transducer import build_model

STATISTICS = ("encoder.mean", "encoder.std")  # of features: they are not learned, but a warm start may keep them


def check_patterns(config: Config, vocab_size: int, starts_from_model: bool = True) -> None:
    """Check the patterns of `train`.

    Raises:
        UserError: one matches no parameter, all parameters are frozen, or some are without a model to start from.
    """
    if config.train.freeze and not starts_from_model:
        frozen = config.train.freeze
        raise UserError(f"train.freeze is {frozen}, but there is no model to start from; give --warm-start")
    with torch.device("meta"):
        names = [name for name, _ in build_model(config, vocab_size).named_parameters()]
    train = config.train
    _check("train.freeze", train.freeze, [*names, *STATISTICS])
    _check("train.optimizer.factors", train.optimizer.factors, names)
    if not any(not is_frozen(name, train) for name in names):
        raise UserError(f"train.freeze is {train.freeze}, so that no parameter is left to learn; take a pattern out")


def is_frozen(name: str, train: TrainConfig) -> bool:
    """Return whether the parameter `name` is frozen."""
    return any(fnmatchcase(name, pattern) for pattern in train.freeze)


def freeze(model: nn.Module, train: TrainConfig) -> None:
    """Disable gradients of the frozen parameters."""
    for name, parameter in model.named_parameters():
        if is_frozen(name, train):
            parameter.requires_grad_(False)


@contextmanager
def kept_statistics(model: nn.Module, train: TrainConfig) -> Iterator[None]:
    """Restore the statistics of the features after the block, except for those that are frozen."""
    own = {name: model.get_buffer(name).clone() for name in STATISTICS if not is_frozen(name, train)}
    yield
    for name, tensor in own.items():
        model.get_buffer(name).copy_(tensor)


def rate_factor(name: str, factors: Mapping[str, float]) -> float:
    """Return the factor of the last pattern that matches `name`, 1 if none does."""
    return next((factor for pattern, factor in reversed([*factors.items()]) if fnmatchcase(name, pattern)), 1.0)


def learning(parameters: Iterable[nn.Parameter] | None) -> list[nn.Parameter] | None:
    """Return the parameters that are not frozen; None, which stands for all parameters, is returned as it is."""
    return None if parameters is None else [p for p in parameters if p.requires_grad]


def _check(key: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            advice = closest(pattern, _patterns_of(names)) or f" There are: {', '.join(_sections(names))}."
            raise UserError(f"{key} names {pattern!r}, which matches no parameter of this model.{advice}")


def _patterns_of(names: Sequence[str]) -> list[str]:
    """Return all names, and a pattern for each section of them, such as `encoder.layers.*`."""
    sections = {f"{section}.*" for name in names for section in accumulate(name.split(".")[:-1], "{}.{}".format)}
    return [*names, *sorted(sections)]


def _sections(names: Sequence[str]) -> list[str]:
    """Return a pattern for each part of encoder, predictor and joiner."""
    parts = [name.split(".") for name in names]
    return sorted({".".join(part[:2]) + (".*" if part[2:] else "") for part in parts})
