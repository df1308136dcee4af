"""SpecAugment (Park et al. 2019, arXiv:1904.08779) on padded batches, without time warping."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.config.schema import SpecAugmentConfig
from residualformer.padding import real_frames


def spec_augment(
    features: Tensor, lengths: Tensor, config: SpecAugmentConfig, mean: Tensor, generator: torch.Generator
) -> Tensor:
    """Put the training mean over random bands of time and frequency, each utterance its own.

    Args:
      features: (N, T, F), not normalised.
      lengths: (N,) frames that are not padding.
      config: a time mask covers up to `max_time_fraction` of its utterance, a frequency mask up to `max_freq_bins`;
        widths and places are uniform, and masks may overlap.
      mean: (F,) mean of the training set, so that a masked cell is 0 after normalisation.
      generator: of the CPU; the same state gives the same masks on every device.
    Returns:
      A new tensor (N, T, F); padding is left alone.
    """
    num_utterances, num_frames, num_bins = features.shape
    lengths = lengths.to("cpu", torch.float32)
    bins = torch.full((num_utterances,), float(num_bins))
    most_bins = torch.full((num_utterances,), float(min(config.max_freq_bins, num_bins)))
    in_time = _bands(num_frames, lengths, lengths * config.max_time_fraction, config.num_time_masks, generator)
    in_frequency = _bands(num_bins, bins, most_bins, config.num_freq_masks, generator)
    speech = real_frames(num_frames, lengths)
    masked = (in_time[:, :, None] | in_frequency[:, None, :]) & speech[:, :, None]  # (N, T, F)
    return torch.where(masked.to(features.device), mean.to(features), features)


def _bands(size: int, lengths: Tensor, widest: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, size) bool: the union of `count` bands inside [0, length), widths uniform in 0 ... floor(widest)."""
    uniform = torch.rand(2, len(lengths), count, generator=generator)
    width = torch.floor(uniform[0] * (torch.floor(widest)[:, None] + 1))  # (N, count)
    start = torch.floor(uniform[1] * (lengths[:, None] - width + 1))
    place = torch.arange(size)[None, None]  # (1, 1, size)
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(dim=1)
