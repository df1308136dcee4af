"""Normalization of levels: causal, bounded, and the same whole and in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from support.speech import RATE, speech

from residualformer.config.loading import config_from_dict
from residualformer.config.schema import FeatureConfig
from residualformer.data.fbank import OnlineFbank, compute_fbank
from residualformer.data.level import FADE_DB, LOG_PER_DB, MOST_DB, TARGET_DB
from residualformer.errors import UserError

NORMALIZED = FeatureConfig(level="normalized")


def energy_db(features: np.ndarray) -> np.ndarray:
    return np.log(np.exp(features.astype(np.float64)).sum(1)) / LOG_PER_DB


def test_a_stream_in_pieces_is_the_whole_to_the_bit():
    samples, fbank, frames = speech(), OnlineFbank(NORMALIZED), []
    rng = np.random.default_rng(0)
    while len(samples):
        size = int(rng.integers(1, 3000))
        fbank.accept(samples[:size])
        frames.append(fbank.pop())
        samples = samples[size:]
    fbank.finish()
    assert np.array_equal(np.concatenate([*frames, fbank.pop()]), compute_fbank(speech(), NORMALIZED))


def test_what_comes_later_changes_nothing_before():
    samples = speech()
    louder = samples.copy()
    louder[RATE:] *= 3
    whole, changed = compute_fbank(samples, NORMALIZED), compute_fbank(louder, NORMALIZED)
    assert np.array_equal(whole[:98], changed[:98]) and not np.array_equal(whole[102:], changed[102:])


@pytest.mark.parametrize("gain_db", [-30.0, -10.0, 10.0])
def test_levels_within_the_bounds_give_the_same(gain_db):
    """To the rounding of the filterbank, from the first frames whose levels are within the bounds on."""
    samples = speech()
    other = compute_fbank(samples * np.float32(10 ** (gain_db / 20)), NORMALIZED)
    plain, found = compute_fbank(samples, FeatureConfig()), compute_fbank(samples, NORMALIZED)
    loud = np.maximum.accumulate(energy_db(plain)) + min(gain_db, 0) > TARGET_DB - MOST_DB + 3  # within the bound
    assert loud.mean() > 0.3 and np.abs(found - other)[loud].max() < 1e-3


def test_the_level_is_that_of_the_loudest_frame_and_fades():
    """A tone, then one 20 dB quieter: at the target, then up to it by `FADE_DB` a frame, and no further."""
    tone = (0.1 * np.sin(2 * np.pi * 1000 * np.arange(12 * RATE) / RATE)).astype(np.float32)
    tone[2 * RATE :] *= 0.1
    energy = energy_db(compute_fbank(tone, NORMALIZED))
    assert np.allclose(energy[5:195], TARGET_DB, atol=1e-3)
    expected = np.minimum(TARGET_DB - 20 + FADE_DB * (np.arange(210, 1190) - 200), TARGET_DB)
    assert np.allclose(energy[210:1190], expected, atol=0.15)  # the frames of the change hold both tones


def test_gain_is_bounded_and_silence_stays():
    faint = (1e-4 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    raised = compute_fbank(faint, NORMALIZED) - compute_fbank(faint, FeatureConfig())
    assert raised.max() <= MOST_DB * LOG_PER_DB + 1e-4
    silence = np.zeros(RATE, np.float32)
    assert np.array_equal(compute_fbank(silence, NORMALIZED), compute_fbank(silence, FeatureConfig()))


def test_augmentation_by_levels_is_refused():
    values = {"features": {"level": "normalized"}, "data": {"variation": {"gain_db": 6.0}}}
    with pytest.raises(UserError, match=r"features\.level = normalized"):
        config_from_dict(values, "test")
