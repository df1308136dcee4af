"""Random lattices of many shapes."""

from __future__ import annotations

import torch
from torch import Tensor


def lattices(regular: bool, B: int = 6, S: int = 40, T: int = 70, band: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of labels and blanks, float64, and a ragged boundary; `band` labels open at a frame, or all."""
    generator = torch.Generator().manual_seed(S + T + band)
    logits = 2 * torch.randn(B, S + 1, T + 1, 5, generator=generator, dtype=torch.float64)
    px, py = logits.log_softmax(3)[:, :, :, :2].unbind(3)
    if band:
        first = (torch.arange(T + 1) * (S + 2 - band) // T)[None]
        label = torch.arange(S + 1)[:, None]
        shut = (label < first) | (label >= first + band)
        px, py = px.masked_fill(shut, -torch.inf), py.masked_fill(shut, -torch.inf)
    boundary = torch.tensor([[0, 0, S, T]]).repeat(B, 1)
    boundary[1, 2:] -= torch.tensor([S // 3, T // 4])
    boundary[2] = torch.tensor([S // 4, T // 4, S, T - T // 8])
    boundary[3, 2] = 0  # no labels
    boundary[4, 3] = min(S, T) if band == 0 else T  # labels only, where they consume frames
    return px[:, :S, : T + regular], py[:, :, :T], boundary
