"""Small random transducers for tests, in float64 where the order of a summation must not show."""

import pytest
import torch

from residualformer.config.schema import (
    Config,
    EncoderConfig,
    FeatureConfig,
    JoinerConfig,
    PredictorConfig,
    TokenConfig,
)
from residualformer.constants import BLANK
from residualformer.data.tokenizer import train_tokenizer
from residualformer.hypothesis import Hypothesis
from residualformer.model.checkpoint import save_model
from residualformer.nn.transducer import Transducer, build_model

DIM = 8


def random_model(vocab_size: int, seed: int, sharpness: float = 1.0, kind: str = "lstm", blank_bias: float = 0.0):
    """A transducer in eval mode; `sharpness` scales the logits."""
    torch.manual_seed(seed)
    config = Config(
        features=FeatureConfig(num_mel_bins=20),
        encoder=EncoderConfig(num_layers=1, dim=DIM, num_heads=2, ffn_dim=16, conv_channels=2),
        predictor=PredictorConfig(kind=kind, embedding_dim=6, hidden_dim=7, num_layers=2),
        joiner=JoinerConfig(dim=9),
    )
    model: Transducer = build_model(config, vocab_size).double().eval()
    for part in (model.predictor, model.joiner):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        model.joiner.vocabulary.weight.mul_(sharpness)
        model.joiner.vocabulary.bias[BLANK] += blank_bias
    return model


def random_frames(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's output (N, T, D) with noise in the padding, and its lengths (N,)."""
    generator = torch.Generator().manual_seed(seed)
    encoded = torch.randn(len(lengths), max(lengths), DIM, generator=generator, dtype=torch.float64)
    return encoded, torch.tensor(lengths)


class Oracle:
    """log P(. | labels, frame) of one utterance; the predictor reads each label sequence as a whole."""

    def __init__(self, model, encoded: torch.Tensor, blank_penalty: float = 0.0):
        self.model, self.encoded, self.blank_penalty = model, encoded, blank_penalty
        self.num_frames = len(encoded)
        self.known: dict = {}

    @torch.no_grad()
    def logp(self, labels: tuple[int, ...], frame: int) -> list[float]:
        if (labels, frame) not in self.known:
            history = torch.tensor(labels, dtype=torch.int64)[None]
            logits = self.model.joiner(self.encoded[frame], self.model.predictor(history)[0, -1])
            logits = logits - self.blank_penalty * torch.eye(len(logits), dtype=logits.dtype)[BLANK]
            self.known[labels, frame] = logits.log_softmax(-1).tolist()
        return self.known[labels, frame]


def assert_same(found: list[Hypothesis], expected: list[tuple[tuple[int, ...], float]]) -> None:
    """The same label sequences in the same order, with the same scores."""
    assert [tuple(hypothesis.tokens) for hypothesis in found] == [labels for labels, _ in expected]
    scores = [hypothesis.score for hypothesis in found]
    assert scores == pytest.approx([score for _, score in expected], rel=1e-9, abs=1e-9)  # float64


def save_random_run(folder, target: str = "text", blank_bias: float = 0.5, info: dict | None = None) -> Config:
    """A run folder with the model of a random recognizer of the letters a-e at 16 kHz; gives its configuration."""
    torch.manual_seed(3)
    config = Config(
        description="random",
        tokens=TokenConfig(kind="char", target=target),
        encoder=EncoderConfig(num_layers=2, dim=DIM, num_heads=2, ffn_dim=16, conv_channels=2),
        predictor=PredictorConfig(embedding_dim=6, hidden_dim=7, num_layers=1),
        joiner=JoinerConfig(dim=9),
    )
    tokenizer = train_tokenizer(["abc de"], config.tokens)
    model = build_model(config, tokenizer.vocab_size)
    with torch.no_grad():
        model.encoder.mean.fill_(-8.0)
        model.joiner.project_encoder.weight.mul_(3)
        model.joiner.vocabulary.weight.mul_(8)
        model.joiner.vocabulary.bias[BLANK] += blank_bias
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model.safetensors", model.state_dict(), config, tokenizer, info or {})
    return config
