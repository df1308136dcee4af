"""A random recognizer of several depths."""

from __future__ import annotations

import dataclasses

from support.exported import random_bundle

from residualformer.config.depth import DepthConfig
from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import build_model


def bundle_of(sharing: int | list[int], loops: list[int], ctc: bool = False) -> Bundle:
    """A random recognizer whose three layers are grouped so, for several depths."""
    made = random_bundle("transformer", "lstm", "sherpa")
    encoder = dataclasses.replace(made.config.encoder, sharing=sharing, depth=DepthConfig(loops))
    loss = dataclasses.replace(made.config.loss, ctc_scale=float(ctc))
    config = dataclasses.replace(made.config, encoder=encoder, loss=loss)
    config = config_from_dict(config_to_dict(config))  # checked
    model = build_model(config, made.tokenizer.vocab_size).eval()
    model.load_state_dict(made.model.state_dict(), strict=False)
    return dataclasses.replace(made, model=model, config=config)
