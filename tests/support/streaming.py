"""A Transformer encoder chunk by chunk, at depths that are given."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.nn.transformer import TransformerEncoder


def stream_through(encoder: TransformerEncoder, features: Tensor, lengths: Tensor, branches: Tensor) -> Tensor:
    """The output (N, chunks * C, D) until the longest stream ends, each chunk at its depth in `branches`."""
    state, pieces = encoder.init_state(len(features)), []
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for chunk, start in enumerate(range(0, features.size(1), encoder.shift)):
        window, sizes = padded[:, start : start + encoder.window], (lengths - start).clamp(0, encoder.window)
        out, state = encoder.step_through(window, sizes, state, branches[:, chunk])
        pieces.append(out)
    return torch.cat(pieces, dim=1)
