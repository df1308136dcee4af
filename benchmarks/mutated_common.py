"""What the loaders of damaged inputs share: the kind itself, and a tiny configuration, tokens, model and audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from residualformer.config.schema import (
    Config,
    DataConfig,
    DecodeConfig,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    SpecAugmentConfig,
    TokenConfig,
)
from residualformer.data.tokenizer import train_tokenizer
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import build_model

RATE, BINS, TEXT, COUNT = 16000, 8, "abc de", 12  # of utterances of own data
TOKENS = train_tokenizer([TEXT], TokenConfig("char"))
CONFIG = Config(
    features=FeatureConfig(num_mel_bins=BINS),
    tokens=TokenConfig(kind="char"),
    encoder=EncoderConfig(num_layers=2, dim=8, num_heads=2, ffn_dim=8, conv_channels=2, sharing=2),
    predictor=PredictorConfig("lstm", embedding_dim=4, hidden_dim=5, num_layers=1),
    joiner=JoinerConfig(dim=6),
    data=DataConfig(specaugment=SpecAugmentConfig(max_freq_bins=2)),
    decode=DecodeConfig(kind="beam", beam=2, max_symbols=2),
)


class Loader(NamedTuple):
    """A kind of input: `build` writes a valid sample into a folder, `read` reads it; `pattern` matches its files."""

    build: Callable[[Path], object]
    read: Callable[[Path], object]
    pattern: str = "*"


def noise(seconds: float = 0.3, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(RATE * seconds), channels)).astype(np.float32)


def bundle() -> Bundle:
    torch.manual_seed(0)
    return Bundle(build_model(CONFIG, TOKENS.vocab_size).eval(), CONFIG, TOKENS, {"seed": 1, "steps": 10})
