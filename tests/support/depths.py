"""A random recognizer of several depths."""

from __future__ import annotations

import dataclasses

import torch
from support.exported import random_bundle

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.loading import config_from_dict, config_to_dict
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import build_model

MU = 0.54e6  # FLOP/s at which a stream is behind at the full depth and not at the least


def bundle_of(sharing: int | list[int], loops: list[int], ctc: bool = False, arbitrated: bool = False) -> Bundle:
    """A random recognizer whose three layers are grouped so, for several depths; an arbitrator changes its mind."""
    made = random_bundle("transformer", "lstm", "sherpa")
    encoder = dataclasses.replace(made.config.encoder, sharing=sharing, depth=DepthConfig(loops, arbitrated))
    loss = dataclasses.replace(made.config.loss, ctc_scale=float(ctc))
    config = dataclasses.replace(made.config, encoder=encoder, loss=loss)
    if arbitrated:
        config = dataclasses.replace(config, amnet=AmNetConfig(arbitrator=ArbitratorConfig(4), cost=CostConfig(mu=MU)))
    config = config_from_dict(config_to_dict(config))  # checked
    model = build_model(config, made.tokenizer.vocab_size).eval()
    model.load_state_dict(made.model.state_dict(), strict=False)
    if model.encoder.arbitrator is not None:
        with torch.no_grad():
            for weight in model.encoder.arbitrator.parameters():
                weight.normal_(std=2 * (weight.dim() > 1))
    return dataclasses.replace(made, model=model, config=config)
