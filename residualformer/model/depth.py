"""A model at a lower depth than it was trained for, as a model of its own: the first layers of each group are left.

A layer that is not run lets its input pass, and no other layer needs its keys and values. So all that works with a
model, streaming and export among it, works at each depth, without the weights and the state of the layers that are not
run, and without an arbitrator, which has nothing to choose.
"""

from __future__ import annotations

import re
from dataclasses import replace

from residualformer.config.depth import DepthConfig
from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.model.checkpoint import SavedModel, Weights
from residualformer.model.cost import count_parameters
from residualformer.nn.arbitrator import ARBITRATOR
from residualformer.nn.sharing import layer_groups, loop_of_each_layer

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")


def at_depth(saved: SavedModel, loops: int) -> SavedModel:
    """Return the model with the first `loops` layers of each group.

    Raises:
        UserError: it was not trained for that depth.
    """
    check_served(saved.config, loops, str(saved.file))
    config, weights = config_at(saved.config, loops), _weights_of(saved.weights, layers_at(saved.config, loops))
    parameters = count_parameters(config, saved.tokenizer.vocab_size)
    return replace(saved, weights=weights, config=config, info=saved.info | {"parameters": parameters})


def check_served(config: Config, loops: int, source: str) -> None:
    """Raise UserError if the model in `source` was not trained for this depth."""
    served = config.encoder.depth.loops
    if config.encoder.kind != "transformer" or not served:
        raise UserError(
            f"loops is {loops}, but {source} was trained for one depth alone (encoder.depth.loops is []): leave it out."
        )
    if loops not in served:
        raise UserError(f"loops is {loops}, but {source} was trained for {', '.join(map(str, served))}: take one.")


def config_at(config: Config, loops: int) -> Config:
    """Return the configuration of a model with the first `loops` layers of each group."""
    groups = layer_groups(config.encoder.sharing, config.encoder.num_layers)
    kept = layers_at(config, loops)
    encoder = replace(
        config.encoder, num_layers=len(kept), sharing=[groups[layer] for layer in kept], depth=DepthConfig()
    )
    return config_from_dict(config_to_dict(replace(config, encoder=encoder)))  # without what means nothing now


def layers_at(config: Config, loops: int) -> list[int]:
    """Return the layers that are run where each group is applied `loops` times."""
    groups = layer_groups(config.encoder.sharing, config.encoder.num_layers)
    return [layer for layer, loop in enumerate(loop_of_each_layer(groups)) if loop <= loops]


def _weights_of(weights: Weights, layers: list[int]) -> Weights:
    """Return the weights with these layers alone, numbered from 0."""
    number = {str(layer): index for index, layer in enumerate(layers)}
    kept: Weights = {}
    for name, tensor in weights.items():
        match = _LAYER.fullmatch(name)
        if match is None and not name.startswith(ARBITRATOR):
            kept[name] = tensor
        elif match is not None and match[1] in number:
            kept[f"encoder.layers.{number[match[1]]}.{match[2]}"] = tensor
    return kept
