"""Levels and telephone lines of samples."""

from __future__ import annotations

import numpy as np
import pytest
from support.speech import RATE, speech

from residualformer.data.degrade import CODECS, at_level, band_limited, coded, through_telephone
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
