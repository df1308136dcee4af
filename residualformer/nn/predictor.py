"""Prediction networks over the labels so far. Both kinds have the same methods."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.schema import PredictorConfig
from residualformer.constants import BLANK
from residualformer.kernels.dropout import Dropout

PredictorState = tuple[Tensor, ...]  # every tensor has N first, so that hypotheses are picked with index_select(0)


class LabelEmbedding(nn.Module):
    """Embedding of labels; in training the embedding of a label becomes zero with probability `token_dropout`."""

    def __init__(self, vocab_size: int, config: PredictorConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, config.embedding_dim)
        self.token_dropout = config.token_dropout
        self.dropout = Dropout(config.dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Embed labels (N, S): (N, S, E)."""
        x = self.table(labels)
        if self.training and self.token_dropout:
            x = x * (torch.rand(labels.shape, device=x.device) >= self.token_dropout).unsqueeze(2)
        return self.dropout(x)


class LSTMPredictor(nn.Module):
    """Embedding and LSTM layers over the whole history (ResidualTransformer, section 4.2)."""

    def __init__(self, vocab_size: int, config: PredictorConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.hidden_dim
        self.embedding = LabelEmbedding(vocab_size, config)
        self.lstm = nn.LSTM(config.embedding_dim, config.hidden_dim, config.num_layers, batch_first=True)
        self.dropout = Dropout(config.dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (N, S) to (N, S + 1, P): position s has seen the first s labels."""
        return self.dropout(self.lstm(self.embedding(F.pad(labels, (1, 0), value=BLANK)))[0])

    def init_state(self, batch_size: int) -> PredictorState:
        """Return h and c, each (N, layers, P), zero; the first `step` is given `BLANK`."""
        zeros = self.embedding.table.weight.new_zeros(batch_size, self.config.num_layers, self.dim)
        return zeros, zeros

    def step(self, labels: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Return the output (N, P) after the next labels (N,), and the new state."""
        h, c = (part.transpose(0, 1).contiguous() for part in state)
        y, (h, c) = self.lstm(self.embedding(labels.unsqueeze(1)), (h, c))
        return y.squeeze(1), (h.transpose(0, 1), c.transpose(0, 1))


class StatelessPredictor(nn.Module):
    """Embedding and one convolution over the last `context_size` labels."""

    def __init__(self, vocab_size: int, config: PredictorConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.hidden_dim
        self.embedding = LabelEmbedding(vocab_size, config)
        self.conv = nn.Conv1d(config.embedding_dim, config.hidden_dim, config.context_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (N, S) to (N, S + 1, P): position s has seen the last context_size of the first s labels."""
        return self.dropout(self._convolve(F.pad(labels, (self.config.context_size, 0), value=BLANK)))

    def init_state(self, batch_size: int) -> PredictorState:
        """Return the labels before the next one, blanks (N, context_size - 1)."""
        device = self.embedding.table.weight.device
        return (torch.full((batch_size, self.config.context_size - 1), BLANK, dtype=torch.long, device=device),)

    def step(self, labels: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Return the output (N, P) after the next labels (N,), and the new state."""
        history = torch.cat([state[0], labels.unsqueeze(1)], dim=1)
        return self._convolve(history).squeeze(1), (history[:, 1:],)

    def _convolve(self, labels: Tensor) -> Tensor:
        return F.relu(self.conv(self.embedding(labels).transpose(1, 2))).transpose(1, 2)


Predictor = LSTMPredictor | StatelessPredictor
