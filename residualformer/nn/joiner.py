"""The joint network: tanh(Linear(encoder) + Linear(predictor)), then Linear to the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Joiner(nn.Module):
    """Its two sides are also given apart: search projects each encoder frame and each label history only once."""

    def __init__(self, encoder_dim: int, predictor_dim: int, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project_encoder = nn.Linear(encoder_dim, dim)
        self.project_predictor = nn.Linear(predictor_dim, dim)
        self.vocabulary = nn.Linear(dim, vocab_size)

    def output(self, joint: Tensor) -> Tensor:
        """The sum of both projections (..., dim) -> logits (..., V)."""
        return self.vocabulary(torch.tanh(joint))

    def forward(self, encoder_out: Tensor, predictor_out: Tensor) -> Tensor:
        """(..., D) and (..., P), of the same or broadcasting leading shape -> logits (..., V)."""
        return self.output(self.project_encoder(encoder_out) + self.project_predictor(predictor_out))
