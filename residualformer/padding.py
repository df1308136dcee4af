"""Masks of padded batches, and what they leave."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def real_frames(size: int, lengths: Tensor) -> Tensor:
    """Return a mask (N, size), True at frames before `lengths` (N,) and False in the padding, on their device."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def chunk_maximum(values: Tensor, lengths: Tensor, chunk: int) -> Tensor:
    """Return the largest of values (N, T) in each chunk of so many frames, padding left out: (N, chunks)."""
    real = values.masked_fill(~real_frames(values.size(1), lengths), -torch.inf)
    return F.pad(real, (0, -values.size(1) % chunk), value=-torch.inf).unflatten(1, (-1, chunk)).amax(2)


def real_rows(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Return x (N, T, D) with zeros in the rows outside begin ... end-1, each (N,): padding may hold anything."""
    row = torch.arange(x.shape[1], device=x.device)
    return torch.where(((row >= begin[:, None]) & (row < end[:, None]))[:, :, None], x, 0.0)
