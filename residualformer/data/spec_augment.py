"""SpecAugment (Park et al. 2019, arXiv:1904.08779) on padded batches, without time warping."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.config.schema import SpecAugmentConfig
from residualformer.padding import real_frames


def spec_augment(
    features: Tensor, lengths: Tensor, config: SpecAugmentConfig, mean: Tensor, generator: torch.Generator
) -> Tensor:
    """Mask random bands of time and frequency, different for each utterance.

    Args:
        features: (N, T, F), not normalized.
        lengths: (N,), the frames of each utterance; the padding does not change.
        config: a time mask covers up to `max_time_fraction` of its utterance, a frequency mask up to `max_freq_bins`;
            widths and positions are uniform, and masks may overlap.
        mean: (F,), of the training set. Masked cells get it, so that they are 0 after normalization.
        generator: on the CPU, so that the same state gives the same masks on every device.

    Returns:
        A new tensor (N, T, F).
    """
    num_utterances, num_frames, num_bins = features.shape
    lengths = lengths.to("cpu", torch.float32)
    bins = torch.full((num_utterances,), float(num_bins))
    max_bins = torch.full((num_utterances,), float(min(config.max_freq_bins, num_bins)))
    in_time = _bands(num_frames, lengths, lengths * config.max_time_fraction, config.num_time_masks, generator)
    in_frequency = _bands(num_bins, bins, max_bins, config.num_freq_masks, generator)
    real = real_frames(num_frames, lengths)
    masked = (in_time[:, :, None] | in_frequency[:, None, :]) & real[:, :, None]  # (N, T, F)
    return torch.where(masked.to(features.device), mean.to(features), features)


def _bands(size: int, lengths: Tensor, widest: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the union of `count` random bands within [0, length), each up to `widest` wide: (N, size) bool."""
    uniform = torch.rand(2, len(lengths), count, generator=generator)
    width = torch.floor(uniform[0] * (torch.floor(widest)[:, None] + 1))  # (N, count)
    start = torch.floor(uniform[1] * (lengths[:, None] - width + 1))
    position = torch.arange(size)[None, None]  # (1, 1, size)
    return ((position >= start[..., None]) & (position < (start + width)[..., None])).any(dim=1)
