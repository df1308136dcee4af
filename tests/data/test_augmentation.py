"""Augmentation of the features: frequencies move as those of a longer or shorter tract, noise has the right level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from residualformer.config.schema import FeatureConfig, VariationConfig
from residualformer.data.augmentation import Augmentation, mixed
from residualformer.data.fbank import compute_fbank
from residualformer.data.level import LOG_PER_DB

N, T, F = 6, 50, 80
LENGTHS = torch.tensor([50, 50, 40, 30, 20, 7])
ALL = VariationConfig(warp=0.1, gain_db=6.0, noise_probability=0.5, noise_snr_db=[5.0, 20.0])


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(N, T, F, generator=torch.Generator().manual_seed(seed)) * 3 - 8


def tone(hz: float, config: FeatureConfig) -> torch.Tensor:
    """Log-mel energies (1, T, F) of a harmonic sound of fundamental `hz`."""
    t = np.arange(config.sample_rate_hz // 2) / config.sample_rate_hz
    return torch.from_numpy(compute_fbank((0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32), config))[None]


@pytest.mark.parametrize("preset", ["sherpa", "kaldi"])
def test_a_factor_of_one_changes_nothing(preset):
    augment = Augmentation(VariationConfig(warp=0.1), FeatureConfig(preset=preset))
    # places are computed in float64 and rounded to float32: off by 1e-5 of a bin at most
    assert torch.allclose(augment.warped(features(), torch.ones(N)), features(), atol=1e-4)


@pytest.mark.parametrize("preset", ["sherpa", "kaldi"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("hz", [500.0, 1200.0, 2500.0])
def test_a_tone_falls_by_the_factor(preset, factor, hz):
    """The peak of a warped tone is where that of the lower, or higher, tone is: to half a bin."""
    config = FeatureConfig(preset=preset)
    augment = Augmentation(VariationConfig(warp=0.1), config)
    middle = slice(20, 30)
    warped = augment.warped(tone(hz, config), torch.tensor([factor]))[0, middle].mean(0)
    expected = tone(hz / factor, config)[0, middle].mean(0)

    def peak(x: torch.Tensor) -> float:
        top = int(x.argmax())
        weights = (x[top - 1 : top + 2] - x[top]).exp()
        return float((weights * torch.arange(top - 1, top + 2)).sum() / weights.sum())

    assert peak(warped) == pytest.approx(peak(expected), abs=0.5)
    assert abs(peak(expected) - peak(tone(hz, config)[0, middle].mean(0))) > 1  # it did move


def test_the_highest_frequencies_stay_within_the_band_and_in_order():
    augment = Augmentation(VariationConfig(warp=0.3), FeatureConfig())
    ramp = torch.arange(F, dtype=torch.float32).expand(1, 1, F)  # a value tells the bin it came from
    for factor in (0.7, 0.9, 1.1, 1.3):
        source = augment.warped(ramp, torch.tensor([factor]))[0, 0]
        assert (source.diff() > 0).all() and source[0] >= 0 and source[-1] == pytest.approx(F - 1, abs=0.6)


def test_noise_has_the_level_it_should():
    noise, snr = features(1), torch.tensor([0.0, 5.0, 10.0, 20.0, 30.0, -5.0])
    out = mixed(features(), noise, LENGTHS, snr)
    for n, length in enumerate(LENGTHS):
        speech, added = (x[n, :length].double().exp() for x in (features(), out))
        ratio = 10 * torch.log10(speech.sum() / (added - speech).sum())
        assert float(ratio) == pytest.approx(float(snr[n]), abs=0.01)  # differences of float32 logarithms


def test_gain_is_one_number_for_an_utterance_within_its_bounds():
    augment = Augmentation(VariationConfig(gain_db=6.0), FeatureConfig())
    change = augment(features(), LENGTHS, torch.Generator().manual_seed(3)) - features()
    for n, length in enumerate(LENGTHS):
        real = change[n, :length]
        assert float(real.max() - real.min()) < 1e-5 and abs(float(real[0, 0])) <= 6 * LOG_PER_DB
    assert len({round(float(change[n, 0, 0]), 4) for n in range(N)}) == N


def test_padding_stays_and_chance_is_the_generators():
    augment = Augmentation(ALL, FeatureConfig())
    before = features()
    out, again, other = (augment(before, LENGTHS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, features()) and torch.equal(out, again) and not torch.equal(out, other)
    for n, length in enumerate(LENGTHS):
        assert torch.equal(out[n, length:], before[n, length:])
        assert out[n].isfinite().all() and not torch.allclose(out[n, :length], before[n, :length])


def test_as_many_utterances_are_noisy_as_should_be():
    augment = Augmentation(VariationConfig(noise_probability=0.3), FeatureConfig())
    x = features()[:1, :5].expand(400, 5, F)
    out = augment(x, torch.full((400,), 5), torch.Generator().manual_seed(1))
    noisy = int((out != x).flatten(1).any(1).sum())
    assert abs(noisy - 120) < 46  # 5 deviations of a binomial of 400 at 0.3
