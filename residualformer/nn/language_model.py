"""A small recurrent language model over tokens; it has the shape of a prediction network with an output layer."""

from __future__ import annotations

from torch import Tensor, nn

from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.schema import PredictorConfig
from residualformer.nn.predictor import LSTMPredictor


class LanguageModel(nn.Module):
    """Embedding, LSTM layers and a linear layer to V tokens.

    The blank, label 0, is the start of a sentence in the input and its end in the output.
    """

    def __init__(self, vocab_size: int, config: LanguageModelConfig) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.network = LSTMPredictor(
            vocab_size,
            PredictorConfig(
                embedding_dim=config.embedding_dim,
                hidden_dim=config.hidden_dim,
                num_layers=config.num_layers,
                dropout=config.dropout,
            ),
        )
        self.output = nn.Linear(config.hidden_dim, vocab_size)

    def forward(self, labels: Tensor) -> Tensor:
        """Return log P (N, S + 1, V) of the label after the first s labels of (N, S), for s = 0 ... S."""
        return self.output(self.network(labels)).log_softmax(-1)
