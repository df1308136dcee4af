"""The interface of encoders: everything that training, search and export need to know of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.padding import real_frames

State = TypeVar("State")


class Encoder(nn.Module, ABC, Generic[State]):
    """A streaming encoder: a pass over whole utterances and a chunk-by-chunk one that equals it.

    Args:
        num_mel_bins: F.
        dim: D, the size of an output frame.
        stride: feature frames per encoder frame.
        window: feature frames that one `step` needs.
        shift: feature frames by which one `step` moves on.
    """

    # Buffers (F,), which the trainer sets: mean and standard deviation of the training set's features.
    mean: Tensor
    std: Tensor

    def __init__(self, num_mel_bins: int, *, dim: int, stride: int, window: int, shift: int) -> None:
        super().__init__()
        self.dim, self.stride, self.window, self.shift = dim, stride, window, shift
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("std", torch.ones(num_mel_bins))

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole utterances.

        Args:
            features: (N, T, F).
            lengths: (N,) real frames of each.

        Returns:
            (N, T', D) and the real encoder frames of each (N,), T' = ceil(T / stride).
        """

    @abstractmethod
    def init_state(self, batch_size: int) -> State:
        """Return the state before the first chunk of `batch_size` streams."""

    @abstractmethod
    def step(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode one chunk of each stream.

        Args:
            features: (N, window, F), the next call's window starts `shift` frames later.
            lengths: (N,) real frames in the window: `window`, but fewer at the end of a stream.
            state: from `init_state` or the last call; it is not changed.

        Returns:
            (N, shift / stride, D), of which the first ceil(min(lengths, shift) / stride) are real, and the new state.
        """

    @abstractmethod
    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """Return the weight matrices that Muon is for, each with the number of matrices stacked in it."""

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the encoder frames of `lengths` feature frames: ceil(T / stride)."""
        return (lengths + self.stride - 1) // self.stride

    def normalize(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalize features (N, T, F) to mean 0 and variance 1; zeros after each end and up to a whole stride."""
        x = (features - self.mean) / self.std
        x = x.masked_fill(~real_frames(x.size(1), lengths).unsqueeze(2), 0.0)
        return F.pad(x, (0, 0, 0, -x.size(1) % self.stride))
