"""A padded batch of utterances, and the functions that make one from arrays.

Letters: N utterances, T frames of 10 ms, F mel bins, S tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residualformer.data.fbank import LOG_FLOOR

QUIET_FRAMES = 10  # length of the stretch that is repeated as an utterance's silence
FAINT = 3.0, 0.4  # log energies of faint noise: at most this much above the floor, and their deviation
FRAMES_MULTIPLE = 16  # T is padded to a multiple of it, so that shapes repeat and their kernels are reused

_TENSORS = ("features", "feature_lens", "tokens", "token_lens")
_LISTS = ("ids", "texts", "transcripts")


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

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in pinned memory, from which a GPU copies while the program goes on."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS})

    def without(self, rows: Collection[int]) -> Batch | None:
        """Return the batch without the utterances `rows`, padded as before; None if no other is there."""
        kept = [row for row in range(len(self.ids)) if row not in rows]
        if not kept:
            return None
        parts: dict[str, Any] = {name: getattr(self, name)[kept] for name in _TENSORS}
        parts |= {name: [values[row] for row in kept] for name in _LISTS if (values := getattr(self, name))}
        return replace(self, **parts)


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


def quiet_frames(features: np.ndarray, count: int) -> np.ndarray:
    """Return (count, F) frames of silence: the quietest stretch of `features` (T, F), repeated.

    The background is thus the utterance's own, where zeros or noise would mark the padding.
    """
    width = min(QUIET_FRAMES, len(features))
    loudness = np.cumsum(np.append(0.0, features.mean(axis=1, dtype=np.float64)))
    start = int(np.argmin(loudness[width:] - loudness[:-width]))
    stretch = features[start : start + width]
    return stretch[np.arange(count) % width]


def pause_frames(before: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, F) frames of a pause after the frames `before` (T, F).

    At random, they are digital silence, the utterance's own background, or faint stationary noise.
    """
    kind, level = rng.integers(3), LOG_FLOOR + rng.uniform(0, FAINT[0])
    if kind == 1:
        return quiet_frames(before, count)
    shape = (count, before.shape[1])
    if kind == 0:
        return np.full(shape, LOG_FLOOR, before.dtype)
    return np.maximum(level + FAINT[1] * rng.standard_normal(shape), LOG_FLOOR).astype(before.dtype)
