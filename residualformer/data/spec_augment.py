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
        lengths: (N,), the frames of each utterance; the padding does not change. On the CPU, or the host waits for
            them.
        config: a time mask covers up to `max_time_fraction` of its utterance, a frequency mask up to `max_freq_bins`;
            widths and positions are uniform, and masks may overlap.
        mean: (F,), of the training set. Masked cells get it, so that they are 0 after normalization.
        generator: on the CPU, so that the same state gives the same masks on every device.

    Returns:
        A new tensor (N, T, F).
    """
    num_utterances, num_frames, num_bins = features.shape
    real = real_frames(num_frames, lengths.to(features.device, non_blocking=True))
    lengths = lengths.to("cpu", torch.float32)
    bins = torch.full((num_utterances,), float(num_bins))
    max_bins = torch.full((num_utterances,), float(min(config.max_freq_bins, num_bins)))
    in_time = _bands(features, 1, lengths, lengths * config.max_time_fraction, config.num_time_masks, generator)
    in_frequency = _bands(features, 2, bins, max_bins, config.num_freq_masks, generator)
    masked = (in_time[:, :, None] | in_frequency[:, None, :]) & real[:, :, None]  # (N, T, F)
    return torch.where(masked, mean.to(features), features)


def _bands(
    features: Tensor, dim: int, lengths: Tensor, widest: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Return the union of `count` random bands within [0, length), each up to `widest` wide, along `dim` of `features`.

    It is (N, size) bool, on the device of `features`, to which only the ends of the bands are copied.
    """
    uniform = torch.rand(2, len(lengths), count, generator=generator)
    width = torch.floor(uniform[0] * (torch.floor(widest)[:, None] + 1))  # (N, count)
    start = torch.floor(uniform[1] * (lengths[:, None] - width + 1))
    ends = torch.stack([start, start + width])[..., None].to(features.device, non_blocking=True)
    position = torch.arange(features.size(dim), device=features.device)
    return ((position >= ends[0]) & (position < ends[1])).any(dim=1)
