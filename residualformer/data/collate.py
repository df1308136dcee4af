"""A padded batch of utterances, and the function that makes one from arrays.

Letters: N utterances, T frames of 10 ms, F mel bins, S tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

FRAMES_MULTIPLE = 16  # T is padded to a multiple of it, so that shapes repeat and their kernels are reused


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one length. The features are not normalized; the model does that."""

    ids: list[str]  # those of joined utterances are separated by "+"
    features: Tensor  # (N, T, F) float32, 0 in the padding
    feature_lens: Tensor  # (N,) int64, in frames
    tokens: Tensor  # (N, S) int64, 0 in the padding
    token_lens: Tensor  # (N,) int64
    texts: list[str]  # the target texts
    transcripts: list[str] = field(default_factory=list)  # the words spoken, where `texts` are translations

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        names = ("features", "feature_lens", "tokens", "token_lens")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def collate(
    ids: list[str],
    arrays: Sequence[np.ndarray],
    tokens: Sequence[Sequence[int]],
    texts: list[str],
    transcripts: list[str],
) -> Batch:
    """Pad features, (T_i, F) each, and token ids into one batch."""
    longest = max(len(array) for array in arrays)
    num_frames = -(-longest // FRAMES_MULTIPLE) * FRAMES_MULTIPLE
    features = np.zeros((len(arrays), num_frames, arrays[0].shape[1]), dtype=np.float32)
    padded = np.zeros((len(tokens), max(len(row) for row in tokens)), dtype=np.int64)
    for n, (array, row) in enumerate(zip(arrays, tokens)):
        features[n, : len(array)] = array
        padded[n, : len(row)] = row
    return Batch(
        ids=ids,
        features=torch.from_numpy(features),
        feature_lens=torch.tensor([len(array) for array in arrays]),
        tokens=torch.from_numpy(padded),
        token_lens=torch.tensor([len(row) for row in tokens]),
        texts=texts,
        transcripts=transcripts,
    )
