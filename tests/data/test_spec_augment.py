"""SpecAugment: what is masked, how much, with what, and that it is reproducible."""

from __future__ import annotations

import pytest
import torch

from residualformer.config.schema import SpecAugmentConfig
from residualformer.data.spec_augment import spec_augment

N, T, F = 64, 48, 20
LENGTHS = torch.arange(N) % T + 1
MEAN = torch.linspace(-9, -1, F)


def masked_cells(config: SpecAugmentConfig, seed: int = 0) -> torch.Tensor:
    """(N, T, F) bool, after checking that every other cell is untouched and masked ones hold the mean."""
    features = torch.rand(N, T, F) + 5  # never the mean
    before = features.clone()
    out = spec_augment(features, LENGTHS, config, MEAN, torch.Generator().manual_seed(seed))
    assert torch.equal(features, before)
    masked = out != features
    assert torch.equal(out, torch.where(masked, MEAN.expand_as(out), features))
    assert not masked[torch.arange(T)[None] >= LENGTHS[:, None]].any()  # padding is left alone
    return masked


def test_time_masks_span_all_bins_and_respect_the_fraction():
    masked = masked_cells(SpecAugmentConfig(num_time_masks=1, max_time_fraction=0.25, num_freq_masks=0))
    assert torch.equal(masked.all(dim=2), masked.any(dim=2))
    frames = masked.any(dim=2)
    assert (frames.sum(dim=1) <= torch.floor(LENGTHS * 0.25)).all()
    starts = (frames[:, 1:] & ~frames[:, :-1]).sum(dim=1) + frames[:, 0]
    assert starts.max() == 1  # one contiguous band each
    assert len({tuple(row.tolist()) for row in frames}) > N // 4  # each utterance its own


def test_frequency_masks_span_all_frames():
    masked = masked_cells(SpecAugmentConfig(num_time_masks=0, num_freq_masks=1, max_freq_bins=6))
    for n in range(N):
        rows = masked[n, : LENGTHS[n]]
        assert (rows == rows[0]).all()
        assert rows[0].sum() <= 6
    assert masked.any()


def test_widths_are_uniform_and_places_reach_both_edges():
    config = SpecAugmentConfig(num_time_masks=0, num_freq_masks=1, max_freq_bins=4)
    rows = torch.cat([masked_cells(config, seed)[:, 0] for seed in range(40)])  # (2560, F)
    counts = torch.bincount(rows.sum(dim=1), minlength=5)
    # 5 widths of probability 1/5: 512 expected, standard deviation 20; 5 deviations either way
    assert len(counts) == 5 and (counts - 512).abs().max() < 100
    assert rows[:, 0].any() and rows[:, -1].any()


def test_same_generator_state_same_masks():
    config = SpecAugmentConfig()
    assert torch.equal(masked_cells(config, 3), masked_cells(config, 3))
    assert not torch.equal(masked_cells(config, 3), masked_cells(config, 4))


@pytest.mark.parametrize(
    "config",
    [
        SpecAugmentConfig(num_time_masks=0, num_freq_masks=0),
        SpecAugmentConfig(max_time_fraction=0.0, max_freq_bins=0),
    ],
)
def test_off(config):
    assert not masked_cells(config).any()


def test_masks_may_cover_everything_but_no_more():
    masked = masked_cells(SpecAugmentConfig(num_time_masks=20, max_time_fraction=1.0, max_freq_bins=200))
    assert masked.any()


def test_dtype_is_kept():
    features = torch.zeros(2, 16, F, dtype=torch.bfloat16)
    out = spec_augment(features, torch.tensor([16, 8]), SpecAugmentConfig(), MEAN, torch.Generator())
    assert out.dtype == torch.bfloat16
