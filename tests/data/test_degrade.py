"""Levels, telephone lines, noise and rooms of samples."""

from __future__ import annotations

import numpy as np
import pytest
from support.speech import RATE, speech

from residualformer.data.degrade import (
    CODECS,
    at_level,
    band_limited,
    coded,
    in_room,
    room_response,
    through_telephone,
    with_noise,
)
from residualformer.errors import UserError


def level_db(samples: np.ndarray, low: float, high: float, rate: int = RATE) -> float:
    power, hz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / rate)
    return 10 * float(np.log10(power[(hz >= low) & (hz < high)].mean() + 1e-30))


def test_a_level_is_kept_in_16_bits_and_clipped():
    samples = speech()
    louder, quieter = at_level(samples, 20), at_level(samples, -80)
    assert louder.max() == 32767 / 32768 and louder.min() >= -1
    assert set(np.unique(quieter * 32768)) <= {-1.0, 0.0, 1.0}
    assert np.abs(at_level(samples, -6) - samples * 10**-0.3).max() <= 0.5 / 32768 + 1e-7


def test_a_band_passes_what_is_within_and_nothing_else():
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    found = band_limited(noise, RATE, 300, 3400)
    inside, below, above = ((level_db(found, *b) - level_db(noise, *b)) for b in ((600, 3100), (0, 100), (4000, 8000)))
    assert abs(inside) < 0.1 and below < -40 and above < -40
    delayed = [float(np.dot(found[100:-100], np.roll(noise, k)[100:-100])) for k in (-1, 0, 1)]
    assert int(np.argmax(delayed)) == 1  # nothing moves in time


@pytest.mark.parametrize("codec", [None, *CODECS])
def test_a_line_has_nothing_above_4_khz_and_keeps_the_length(codec):
    samples = speech()
    found = through_telephone(samples, RATE, codec)
    assert found.shape == samples.shape and found.dtype == np.float32
    assert level_db(found, 4500, 8000) < level_db(samples, 300, 3400) - 50


def test_g711_has_the_signal_to_noise_ratio_of_the_standard():
    """36 to 39 dB for a sound at -10 dB (ITU-T G.711's table gives 37 to 38 for noise)."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    for codec in ("mu-law", "A-law"):
        error = coded(noise, 8000, codec) - noise
        assert 36 < 10 * np.log10(noise.var() / error.var()) < 39


def test_an_unknown_codec_is_told():
    with pytest.raises(UserError, match=r"the codec is 'opus'; allowed are mu-law, A-law, GSM\."):
        through_telephone(speech(), RATE, "opus")


def test_noise_is_added_at_its_ratio():
    rng, samples = np.random.default_rng(0), speech()
    for snr_db in (-10, 0, 25):
        added = with_noise(samples, rng.standard_normal(len(samples)), snr_db).astype(np.float64) - samples
        found = 10 * np.log10(np.square(samples, dtype=np.float64).sum() / np.square(added).sum())
        assert found == pytest.approx(snr_db, abs=1e-3)  # the sum is rounded to float32
    silence = np.zeros_like(samples)
    assert np.array_equal(with_noise(samples, silence, 0), samples)
    assert np.array_equal(with_noise(silence, samples, 0), silence)


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 1.0])
def test_a_room_decays_by_60_db_in_its_reverberation_time(rt60_s):
    """By Schroeder's backward integral of the energy, over the first 30 dB as ISO 3382 has it (T30, without 5 dB at the
    start). Its deviation, of noise in a band of 8 kHz, is below 2%.
    """
    response = room_response(rt60_s, 6.0, RATE, np.random.default_rng(0))
    direct, rest = response[0] ** 2, np.square(response[1:])
    assert 10 * np.log10(direct / rest.sum()) == pytest.approx(6.0, abs=1e-9)
    decay = 10 * np.log10(np.cumsum(rest[::-1])[::-1] / rest.sum())
    time = np.arange(1, len(response)) / RATE
    fitted = (decay < -5) & (decay > -35)
    slope = np.polyfit(time[fitted], decay[fitted], 1)[0]  # dB per second
    assert -60 / slope == pytest.approx(rt60_s, rel=0.05)


def test_a_room_keeps_level_and_length_and_does_not_delay():
    samples = speech()
    response = room_response(0.4, 3.0, RATE, np.random.default_rng(1))
    found = in_room(samples, response)
    assert found.shape == samples.shape and found.dtype == np.float32
    assert np.square(found).sum() == pytest.approx(np.square(samples).sum(), rel=1e-5)
    expected = np.convolve(samples.astype(np.float64), response)[: len(samples)]
    expected *= np.linalg.norm(samples) / np.linalg.norm(expected)
    assert np.abs(found - expected).max() < 1e-6  # of float32, at a peak near 0.3
    delayed = [float(np.dot(samples[200:-200], np.roll(found, -k)[200:-200])) for k in range(-50, 51)]
    assert int(np.argmax(delayed)) == 50
    assert not in_room(np.zeros(100, np.float32), response).any()
