"""Joint networks. Both kinds offer their two projections apart, so that search computes each only once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TanhJoiner(nn.Module):
    """tanh(Linear(encoder) + Linear(predictor)), then Linear to the vocabulary (ResidualTransformer, section 4.2)."""

    def __init__(self, encoder_dim: int, predictor_dim: int, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project_encoder = nn.Linear(encoder_dim, dim)
        self.project_predictor = nn.Linear(predictor_dim, dim)
        self.vocabulary = nn.Linear(dim, vocab_size)

    def output(self, joint: Tensor) -> Tensor:
        """Return the logits (..., V) of the sum of both projections (..., dim)."""
        return self.vocabulary(torch.tanh(joint))

    def forward(self, encoder_out: Tensor, predictor_out: Tensor) -> Tensor:
        """Join (..., D) and (..., P), of the same or broadcasting leading shapes, to logits (..., V)."""
        return self.output(self.project_encoder(encoder_out) + self.project_predictor(predictor_out))


class AdditiveJoiner(nn.Module):
    """The sum of both sides, each projected to the vocabulary; it has no parameters beside these (AmNets, section 5).

    Only the encoder's side has a bias: a second one would add nothing.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project_encoder = nn.Linear(encoder_dim, vocab_size)
        self.project_predictor = nn.Linear(predictor_dim, vocab_size, bias=False)

    def output(self, joint: Tensor) -> Tensor:
        """Return the sum of both projections (..., V), which is the logits."""
        return joint

    def forward(self, encoder_out: Tensor, predictor_out: Tensor) -> Tensor:
        """Join (..., D) and (..., P), of the same or broadcasting leading shapes, to logits (..., V)."""
        return self.project_encoder(encoder_out) + self.project_predictor(predictor_out)


Joiner = TanhJoiner | AdditiveJoiner
