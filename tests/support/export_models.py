"""Small random transducers of every kind that can be exported, and their files on onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import torch

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.schema import (
    Config,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    ResidualConfig,
    TokenConfig,
)
from residualformer.data.fbank import compute_fbank
from residualformer.data.tokenizer import Tokenizer, train_tokenizer
from residualformer.export.audio import noise
from residualformer.export.contracts import CONTRACTS, Contract
from residualformer.export.folder import encoder_graph
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer, build_model

BINS = 21  # odd: the convolutions round up
TRANSFORMER = EncoderConfig(
    num_layers=4, dim=16, num_heads=2, ffn_dim=24, conv_channels=3, chunk_ms=80, left_context_ms=200, look_ahead_ms=40,
    sharing=2, residual=ResidualConfig(rank=3, diagonal=True),
)  # fmt: skip
DEPTHS = replace(TRANSFORMER, num_layers=5, sharing=[0, 0, 0, 1, 1], depth=DepthConfig([3, 2, 1], arbitrator=True))
RECURRENT = EncoderConfig(kind="lstm", num_layers=3, dim=12, stack_frames=3)
ENCODERS: dict[str, tuple[EncoderConfig, AmNetConfig]] = {
    "residual": (TRANSFORMER, AmNetConfig()),
    "own weights, no look-ahead": (
        replace(TRANSFORMER, sharing=1, residual=ResidualConfig(), look_ahead_ms=0), AmNetConfig()),
    "groups, narrow feed-forward": (
        replace(TRANSFORMER, sharing=[0, 1, 0, 1], ffn_dim=8, residual=ResidualConfig(0, True)), AmNetConfig()),
    "frames of 80 ms": (
        replace(TRANSFORMER, frame_ms=80, chunk_ms=160, left_context_ms=320, look_ahead_ms=80), AmNetConfig()),
    "no look-back": (replace(TRANSFORMER, left_context_ms=0, look_ahead_ms=120), AmNetConfig()),
    "depths": (DEPTHS, AmNetConfig(arbitrator=ArbitratorConfig(8))),
    "depths by backlog, no look-back": (
        replace(DEPTHS, left_context_ms=0, look_ahead_ms=0),
        AmNetConfig(arbitrator=ArbitratorConfig(8, use_backlog=True), cost=CostConfig(mu=0.3e6))),
    "lstm": (RECURRENT, AmNetConfig()),
    "gru": (replace(RECURRENT, kind="gru", num_layers=1), AmNetConfig()),
    "factorised": (RECURRENT, AmNetConfig("factorised", [0.5])),
    "sparse": (RECURRENT, AmNetConfig("sparse", [0.5])),
    "factorised branches": (
        RECURRENT, AmNetConfig("factorised", [0.2, 0.6, 0.2], arbitrator=ArbitratorConfig(8, 2, True, True, 1))),
    "sparse branches": (
        replace(RECURRENT, kind="gru"), AmNetConfig("sparse", [0.5, 0.8], arbitrator=ArbitratorConfig(8, 1))),
}  # fmt: skip
PREDICTORS = {
    "lstm": PredictorConfig(embedding_dim=6, hidden_dim=7, num_layers=2),
    "one label": PredictorConfig("stateless", embedding_dim=6, hidden_dim=7, context_size=1),
    "three labels": PredictorConfig("stateless", embedding_dim=6, hidden_dim=7, context_size=3),
}


def random_model(config: Config, vocab_size: int = 9, seed: int = 0) -> Transducer:
    """In eval mode, with statistics of features that are not neutral and residuals that are not zero."""
    torch.manual_seed(seed)
    model = build_model(config, vocab_size).eval()
    with torch.no_grad():
        model.encoder.mean.normal_(-8, 1)
        model.encoder.std.uniform_(2, 4)
        for name, parameter in model.named_parameters():
            if name.endswith((".B", ".D")) or "norm" in name:
                parameter.normal_(0.5, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith(".mask"):
                buffer.bernoulli_(0.5)
        if model.encoder.arbitrator is not None:  # so that the branches change
            if config.encoder.kind == "transformer":
                torch.manual_seed(seed)
                for weight in model.encoder.arbitrator.parameters():
                    weight.normal_(std=1.0 if weight.dim() > 1 else 0.1)
            else:
                model.encoder.arbitrator.out.weight.mul_(8)
    return model


def config_of(
    encoder: str = "residual", predictor: str = "lstm", joiner: str = "tanh", preset: str = "sherpa"
) -> Config:
    encoder_config, amnet = ENCODERS[encoder]
    return Config(
        features=FeatureConfig(preset=preset, num_mel_bins=BINS),
        tokens=TokenConfig(kind="char"),
        encoder=encoder_config,
        amnet=amnet,
        predictor=PREDICTORS[predictor],
        joiner=JoinerConfig(joiner, 10),
    )


def contract_of(model: Transducer, kind: str, merged: bool = False) -> Contract:
    return CONTRACTS[kind](model, encoder_graph(model, merged))


@torch.no_grad()
def random_bundle(config: Config, seed: int = 0) -> Bundle:
    """A recognizer that writes many different tokens of noise, and a blank in about every second frame."""
    tokenizer: Tokenizer = train_tokenizer(["abc de"], config.tokens)
    model = random_model(config, tokenizer.vocab_size, seed)
    features = torch.from_numpy(compute_fbank(noise(16000)[0].samples, config.features))[None]
    lengths = torch.tensor([features.size(1)])
    if model.encoder.arbitrator is not None and config.encoder.kind == "transformer":  # each depth is as likely
        out, asked = model.encoder.arbitrator.out, model.encoder.arbitrate(features, lengths)[0]
        out.bias.sub_(asked.mean(0)).div_(asked.std(0))
        out.weight.div_(asked.std(0)[:, None])
    frames, _ = model.encoder(features, lengths)
    joint = model.joiner.project_encoder(frames[0])
    model.joiner.project_encoder.weight.mul_(1 / joint.std(0, keepdim=True).T)  # each of the joint's numbers changes
    model.joiner.project_encoder.bias.copy_(-frames[0].mean(0) @ model.joiner.project_encoder.weight.T)
    model.joiner.vocabulary.weight.mul_(8)
    predicted, _ = model.predictor.step(torch.tensor([0]), model.predictor.init_state(1))
    logits = model.joiner(frames[0], predicted)  # (T, V)
    model.joiner.vocabulary.bias -= logits.mean(0)
    logits = logits - logits.mean(0)
    model.joiner.vocabulary.bias[0] += (logits[:, 1:].amax(1) - logits[:, 0]).median()
    return Bundle(model, config, tokenizer, {"data": "noise"})


class Session:
    """A model on onnxruntime: arrays in the order of its inputs -> a tensor for each output."""

    def __init__(self, model) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def __call__(self, *values) -> list[torch.Tensor]:
        feeds = dict(zip((entry.name for entry in self.session.get_inputs()), map(np.asarray, values), strict=True))
        return [torch.from_numpy(value) for value in self.session.run(None, feeds)]


def zeros(states, batch_size: int) -> list[np.ndarray]:
    return [np.zeros([batch_size if size == "N" else size for size in s.shape], s.dtype) for s in states]
