"""Noise, rooms and levels against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from local.common import acoustics

RATE = 16000


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("exponent", acoustics.COLORS.values())
def test_noise_has_the_slope_of_its_color(exponent):
    noise = acoustics.colored_noise(1 << 18, exponent, np.random.default_rng(0))
    assert acoustics.rms(noise) == pytest.approx(1.0, rel=1e-5)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[1000:2000].mean(), power[64000:128000].mean()  # six octaves apart
    # each band averages over 1000 bins or more: 3% standard error, 0.006 of an exponent over six octaves
    assert np.log2(low / high) / 6 == pytest.approx(exponent, abs=0.03)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_signal_to_noise_ratio(snr_db):
    signal, noise = tone(440, 1.0), acoustics.colored_noise(RATE, 1.0, np.random.default_rng(0))
    added = acoustics.add_noise(signal, 7 * noise, snr_db) - signal
    assert 20 * np.log10(acoustics.rms(signal) / acoustics.rms(added)) == pytest.approx(snr_db, abs=1e-3)


def test_reverberation_is_the_convolution_cut_to_length():
    rng = np.random.default_rng(0)
    signal, response = rng.standard_normal(1001), rng.standard_normal(357)
    expected = np.convolve(signal, response)[:1001]
    np.testing.assert_allclose(acoustics.reverberate(signal, response), expected, atol=1e-4)  # float32 of sums of 357


def test_room_response_decays_by_60_db_in_rt60_and_keeps_the_ratio():
    response = acoustics.room_response(0.5, 6.0, RATE, np.random.default_rng(0))
    assert response[0] == 1.0 and not response[1 : int(0.002 * RATE)].any()
    tail = response[1:][response[1:] != 0].astype(np.float64)
    assert 10 * np.log10(1.0 / np.sum(tail**2)) == pytest.approx(6.0, abs=1e-3)
    early, late = tail[:1000], tail[6000:7000]  # 6000 samples of 8000: 45 dB; 1000 draws: about 0.3 dB of error
    assert 20 * np.log10(acoustics.rms(early) / acoustics.rms(late)) == pytest.approx(45.0, abs=1.0)


def test_level_is_set_without_clipping():
    assert 20 * np.log10(acoustics.rms(acoustics.set_level(tone(440, 1.0), -25.0))) == pytest.approx(-25.0, abs=1e-3)
    click = np.zeros(1000, np.float32)
    click[500] = 0.1
    assert np.abs(acoustics.set_level(click, -10.0)).max() == pytest.approx(0.99)


def test_resampling_keeps_pitch_level_and_length():
    samples = np.round(tone(1000, 1.0, 22050) * 16384).astype(np.int16)
    resampled = acoustics.resample(samples, 22050, RATE)
    assert resampled.dtype == np.float32 and len(resampled) == RATE
    expected = 0.5 * tone(1000, 1.0)  # away from the ends the filter changes a 1 kHz tone by less than its 16-bit steps
    np.testing.assert_allclose(resampled[1000:-1000], expected[1000:-1000], atol=1e-3)


def test_babble_is_made_of_its_voices():
    voices = [tone(300, 0.1), 5 * tone(700, 0.3)]
    mix = acoustics.babble(voices, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(mix)) ** 2
    assert len(mix) == RATE and acoustics.rms(mix) == pytest.approx(1.0, rel=1e-5)
    assert (power[290:310].sum() + power[690:710].sum()) / power.sum() > 0.95
    assert power[290:310].sum() == pytest.approx(power[690:710].sum(), rel=0.1)  # equally loud, though one was not
