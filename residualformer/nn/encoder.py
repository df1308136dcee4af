"""The interface of encoders: everything that training, search and export need to know of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.nn.arbitrator import Arbitrator, Sampler
from residualformer.padding import real_frames

State = TypeVar("State")


class Encoded(NamedTuple):
    """The result of `BranchedEncoder.encode`; the last two are None where no arbitrator decides."""

    frames: Tensor  # (N, T', D)
    lengths: Tensor  # (N,)
    decisions: Tensor | None  # (N, steps, B): d_t(n) of the branches that step t went through
    arbitrator_logits: Tensor | None  # (N, steps, B): from step t; with delay 1 they decide on step t + 1


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

    @property
    def frames_per_step(self) -> int:
        """C, the encoder frames that one `step` returns."""
        return self.shift // self.stride

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the encoder frames of `lengths` feature frames: ceil(T / stride)."""
        return (lengths + self.stride - 1) // self.stride

    def num_steps(self, lengths: Tensor) -> Tensor:
        """Return the steps that encode `lengths` feature frames: ceil(T / shift)."""
        return (lengths + self.shift - 1) // self.shift

    def normalize(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalize features (N, T, F) to mean 0 and variance 1; zeros after each end and up to a whole stride."""
        x = (features - self.mean) / self.std
        x = x.masked_fill(~real_frames(x.size(1), lengths).unsqueeze(2), 0.0)
        return F.pad(x, (0, 0, 0, -x.size(1) % self.stride))


class BranchedEncoder(Encoder[State]):
    """An encoder with B ways through it, the one of the most work first, of which each step takes one.

    A step is a frame of recurrent layers, which have branches, or a chunk of a Transformer, which has depths. Where
    there is an arbitrator, it chooses; without one, steps take the first way, unless another is given.
    """

    arbitrator: Arbitrator | None
    num_branches: int  # B

    @abstractmethod
    def encode(self, features: Tensor, lengths: Tensor, sampler: Sampler) -> Encoded:
        """Encode whole utterances as `forward` does, with decisions made by `sampler`, and return these as well."""

    @abstractmethod
    def encode_through(self, features: Tensor, lengths: Tensor, branches: Tensor) -> Tensor:
        """Encode whole utterances, each step by the branch (N, steps) int64 that is given for it: (N, T', D).

        The arbitrator is not asked. Beyond the end of an utterance any branch will do.
        """

    @abstractmethod
    def arbitrate(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the arbitrator's logits (N, steps, B) alone; there must be one."""

    @abstractmethod
    def step_through(self, features: Tensor, lengths: Tensor, state: State, branch: Tensor) -> tuple[Tensor, State]:
        """Do what `step` does, by the branch (N,) int64 that is given; the arbitrator is not asked."""

    @abstractmethod
    def branch_flops(self) -> list[float]:
        """Return the multiply-accumulates per encoder frame of each branch, without biases."""

    def arbitrator_flops(self) -> float:
        """Return the multiply-accumulates per encoder frame of the arbitrator; 0 where there is none."""
        return self.arbitrator.flops() / self.frames_per_step if self.arbitrator is not None else 0.0
