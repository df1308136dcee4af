"""Sharing of weights between layers (ResidualTransformer, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from residualformer.config.schema import EncoderConfig
from residualformer.nn.linear import ResidualLinear


def layer_groups(sharing: int | Sequence[int], num_layers: int) -> list[int]:
    """Return the group of each layer. An int K puts K consecutive layers in a group: layer l belongs to floor(l / K).

    >>> layer_groups(3, 6)
    [0, 0, 0, 1, 1, 1]

    Raises:
        ValueError: K below 1, or a list of another length, or groups not numbered from 0 without holes.
    """
    if isinstance(sharing, int):
        if sharing < 1:
            raise ValueError(f"sharing K = {sharing} is not allowed: give 1 (no sharing) or more")
        return [layer // sharing for layer in range(num_layers)]
    groups = list(sharing)
    if len(groups) != num_layers:
        raise ValueError(f"sharing lists {len(groups)} layers, but the encoder has {num_layers}")
    if set(groups) != set(range(max(groups) + 1)):
        raise ValueError(f"sharing uses the groups {sorted(set(groups))}; number them 0, 1, 2, ... without holes")
    return groups


def loop_of_each_layer(groups: Sequence[int]) -> list[int]:
    """Return for each layer, given its group, how often the group's weights have then been applied.

    >>> loop_of_each_layer([0, 0, 0, 1, 1])
    [1, 2, 3, 1, 2]
    """
    return [list(groups[: layer + 1]).count(group) for layer, group in enumerate(groups)]


def shared_set(config: EncoderConfig) -> nn.ModuleDict:
    """Return a full set of a Transformer layer's projections, with biases (shared like their weights, footnote 2)."""
    dim, ffn = config.dim, config.ffn_dim
    sizes = {"q": (dim, dim), "k": (dim, dim), "v": (dim, dim), "out": (dim, dim), "up": (dim, ffn), "down": (ffn, dim)}
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})


def layer_linears(shared: nn.ModuleDict, config: EncoderConfig) -> dict[str, ResidualLinear]:
    """Return the projections of one layer: its group's shared ones, each with a residual of the layer's own."""
    residual = config.residual
    return {
        name: ResidualLinear(cast(nn.Linear, linear), residual.rank, residual.diagonal)
        for name, linear in shared.items()
    }
