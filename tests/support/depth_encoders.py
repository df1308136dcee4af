"""Small random Transformer encoders of several depths."""

from __future__ import annotations

import torch

from residualformer.config.amnet import ArbitratorConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.schema import EncoderConfig, ResidualConfig
from residualformer.nn.transformer import TransformerEncoder

BINS, LENGTHS = 20, torch.tensor([131, 128, 1, 66])
# chunk, left context, look-ahead in ms; groups of five layers
SETTINGS = [(160, 288, 160), (40, 40, 0), (160, 0, 0), (80, None, 240)]
GROUPS = [(3, [3, 2, 1]), (5, [5, 4, 1]), ([0, 1, 0, 1, 0], [3, 1])]


def make(
    setting=SETTINGS[0], groups=GROUPS[0], residual: bool = True, arbitrator: ArbitratorConfig | None = None, seed=1
) -> TransformerEncoder:
    """A small encoder in eval mode whose every parameter is random; its arbitrator, if any, changes its mind."""
    torch.manual_seed(seed)
    chunk, left, ahead = setting
    config = EncoderConfig(
        num_layers=5, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=groups[0], chunk_ms=chunk,
        left_context_ms=left, look_ahead_ms=ahead, residual=ResidualConfig(3 * residual, residual),
        depth=DepthConfig(groups[1], arbitrator is not None),
    )  # fmt: skip
    encoder = TransformerEncoder(config, BINS, arbitrator).eval()
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    if encoder.arbitrator is not None:
        with torch.no_grad():
            encoder.arbitrator.out.weight.mul_(5)
    encoder.mean.normal_(), encoder.std.uniform_(0.5, 2)
    return encoder
