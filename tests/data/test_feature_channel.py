"""Levels, clipping and telephone lines on features against the same on samples, followed by the real filterbank.

Differences are in dB of the energy of a bin. A sound like speech lasts 2.4 s, so that there are 19,000 of them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.speech import RATE, speech

from residualformer.config.schema import FeatureConfig, VariationConfig
from residualformer.data.augmentation import Augmentation
from residualformer.data.degrade import at_level, through_telephone
from residualformer.data.fbank import LOG_FLOOR, compute_fbank
from residualformer.data.feature_channel import CODECS, FeatureChannel
from residualformer.data.level import LOG_PER_DB

PRESETS = ["sherpa", "kaldi"]


def channel(preset: str) -> tuple[FeatureChannel, FeatureConfig]:
    config = FeatureConfig(preset=preset)
    return FeatureChannel(config, Augmentation(VariationConfig(), config).centers), config


def features(samples: np.ndarray, config: FeatureConfig) -> torch.Tensor:
    return torch.from_numpy(compute_fbank(samples, config))[None]


def difference_db(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found - expected) / LOG_PER_DB


def rms(x: torch.Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("gain", [-35.0, -20.0, -6.0])
def test_a_quieter_recording_is_exact(preset, gain):
    """But for float32 sums, and for energies within 0.02 nats (0.087 dB) of the floor, which count as silence."""
    model, config = channel(preset)
    samples = speech()
    expected = features(samples * np.float32(10 ** (gain / 20)), config)
    found = model.louder(features(samples, config), torch.tensor([gain]), clip=True)
    assert float(difference_db(found, expected).abs().max()) < 0.09 and rms(difference_db(found, expected)) < 0.005


def test_digital_silence_stays_however_loud():
    model, _ = channel("sherpa")
    silence = torch.full((2, 5, 80), LOG_FLOOR).half().float()  # as it is stored
    louder = model.louder(silence, torch.tensor([15.0, -15.0]), clip=True)
    assert float((louder - silence).abs().max()) < 0.02  # what half precision takes from the floor


@pytest.mark.parametrize("preset", PRESETS)
def test_the_variance_of_samples_is_that_of_the_frames(preset):
    """White noise to 2%, whose variance over 4 s is known to 0.6%; the filters of `sherpa` end in steps at 8 kHz."""
    model, config = channel(preset)
    noise = (0.05 * np.random.default_rng(1).standard_normal(4 * RATE)).astype(np.float32)
    variance = float(model.log_variance(features(noise, config)).exp().mean())
    assert variance == pytest.approx(float(noise.var()), rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("gain", [10.0, 20.0])
def test_clipping_of_noise_is_that_of_gaussian_samples(preset, gain):
    """Clipped white noise is known exactly (Bussgang), but for the color of the distortion: 1.5 dB on average."""
    model, config = channel(preset)
    noise = (0.15 * np.random.default_rng(2).standard_normal(4 * RATE)).astype(np.float32)
    expected = features(at_level(noise, gain), config)
    found = model.louder(features(noise, config), torch.tensor([gain]), clip=True)
    plain = model.louder(features(noise, config), torch.tensor([gain]), clip=False)
    assert abs(float(difference_db(found, expected).mean())) < 1.5
    assert abs(float(difference_db(plain, expected).mean())) > abs(float(difference_db(found, expected).mean()))


@pytest.mark.parametrize("preset", PRESETS)
def test_clipping_of_speech_is_nearer_the_truth_than_none(preset):
    """Speech is no Gaussian noise: of a change of 20 dB, the model misses by 8 on average over bins and frames.

    That is at most 85% of what it would be without clipping, and unbiased to 2.5 dB.
    """
    model, config = channel(preset)
    samples = speech(peak=0.9)
    expected = features(at_level(samples, 20), config)
    found, plain = (model.louder(features(samples, config), torch.tensor([20.0]), clip) for clip in (True, False))
    assert rms(difference_db(found, expected)) < 0.85 * rms(difference_db(plain, expected))
    assert rms(difference_db(found, expected)) < 8 and abs(float(difference_db(found, expected).mean())) < 2.5


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("band", [False, True])
@pytest.mark.parametrize("codec", [None, "mu-law", "A-law", "GSM"])
def test_a_telephone_line_is_that_of_samples(preset, band, codec):
    """A line changes energies by 12 to 30 dB; the features tell them to 3 dB, with GSM, whose error is random, to 8.

    Half of the energies are right to 0.5 dB (GSM: 4). Where a filter ends within a bin, its response depends on where
    in the bin a sound is, and what a codec leaves below 300 Hz on its details.
    """
    model, config = channel(preset)
    samples = speech()
    before, expected = features(samples, config), features(through_telephone(samples, RATE, codec, band), config)
    number = 0 if codec is None else 2 if codec == "GSM" else 1
    generator = torch.Generator().manual_seed(0)
    found = model.through_telephone(before, torch.tensor([band]), torch.tensor([number]), generator)
    error, change = difference_db(found, expected), difference_db(before, expected)
    assert rms(change) > 8 and rms(error) < (8 if codec == "GSM" else 4)
    assert float(error.abs().median()) < (4 if codec == "GSM" else 0.5) and abs(float(error.mean())) < 2


def test_each_utterance_has_its_own_line_and_chance_is_the_generators():
    config = VariationConfig(telephone_probability=0.5, gain_db=15.0, quieter_db=20.0, gain_probability=0.5, clip=True)
    augment = Augmentation(config, FeatureConfig())
    x = features(speech(), FeatureConfig()).expand(200, -1, -1)
    lengths = torch.full((200,), x.size(1))
    out, again = (augment(x, lengths, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(out, again) and out.isfinite().all() and float(out.min()) >= LOG_FLOOR - 1e-4
    unchanged = int((out - x).flatten(1).abs().amax(1).lt(1e-4).sum())
    assert abs(unchanged - 50) < 31  # 5 deviations of a binomial of 200 at 1/4
    high = out[:, :, -4:].mean((1, 2)) < LOG_FLOOR + 2  # nothing is left above 4 kHz
    assert int(high.sum()) > 60


def test_the_levels_drawn_reach_from_the_quietest_to_the_loudest():
    augment = Augmentation(VariationConfig(gain_db=15.0, quieter_db=20.0), FeatureConfig())
    loud = torch.full((500, 1, 80), 5.0)
    change = (augment(loud, torch.full((500,), 1), torch.Generator().manual_seed(0)) - loud)[:, 0, 0] / LOG_PER_DB
    assert -35 <= float(change.min()) < -34 and 14 < float(change.max()) <= 15.0001
    assert len(CODECS) == 3
