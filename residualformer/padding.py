"""Masks of padded batches."""

from __future__ import annotations

import torch
from torch import Tensor


def real_frames(size: int, lengths: Tensor) -> Tensor:
    """Return a mask (N, size), True at frames before `lengths` (N,) and False in the padding, on their device."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
