"""Filterbanks: against an independent numpy computation, stream = batch, Lhotse's contract, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lhotse.features.base import FeatureExtractor, get_extractor_type
from lhotse.utils import compute_num_frames_from_samples
from support.audio import RATE, noise

from residualformer.config.schema import FeatureConfig
from residualformer.data.fbank import LOG_FLOOR, PRESETS, OnlineFbank, compute_fbank
from residualformer.data.features import KnfFbank, Statistics, read_cmvn, read_feature_config, write_feature_files
from residualformer.errors import UserError
from residualformer.files import write_checked_json

LENGTH, SHIFT, FFT = 400, 160, 512


def slaney_mel(hz: np.ndarray) -> np.ndarray:
    """Linear below 1 kHz (15 mels), then 27 mels to each factor of 6.4 (Slaney's Auditory Toolbox)."""
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def htk_mel(hz: np.ndarray) -> np.ndarray:
    return 1127 * np.log(1 + np.asarray(hz, dtype=np.float64) / 700)


def mel_weights(preset: str, num_bins: int) -> np.ndarray:
    """(bins, FFT // 2 + 1) triangles: in Hz with unit area for `sherpa`, in mel with unit height for `kaldi`."""
    hz = np.arange(FFT // 2 + 1) * RATE / FFT
    if preset == "sherpa":
        edges = slaney_hz(np.linspace(0, slaney_mel(8000), num_bins + 2))
        place, area = hz, 2 / (edges[2:] - edges[:-2])
    else:
        edges = np.linspace(htk_mel(20), htk_mel(7600), num_bins + 2)
        place, area = htk_mel(hz), np.ones(num_bins)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (place - left) / (middle - left), (right - place) / (right - middle)
    return np.maximum(0, np.minimum(rising, falling)) * area[:, None]


def reference_fbank(samples: np.ndarray, preset: str, num_bins: int) -> np.ndarray:
    """The textbook computation in float64, frame by frame; edges are mirrored."""
    num_frames = (len(samples) + SHIFT // 2) // SHIFT
    mirrored = np.pad(samples.astype(np.float64), FFT, mode="symmetric")
    i = np.arange(LENGTH)
    window = {
        "sherpa": 0.5 - 0.5 * np.cos(2 * np.pi * i / LENGTH),
        "kaldi": (0.5 - 0.5 * np.cos(2 * np.pi * i / (LENGTH - 1))) ** 0.85,
    }[preset]
    rows = []
    for t in range(num_frames):
        start = FFT + t * SHIFT + SHIFT // 2 - LENGTH // 2
        frame = mirrored[start : start + LENGTH]
        if preset == "kaldi":
            frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, FFT)) ** 2
        rows.append(np.log(np.maximum(mel_weights(preset, num_bins) @ power, np.finfo(np.float32).eps)))
    return np.array(rows)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_samples", [8000, 7777])
def test_matches_an_independent_computation(preset, num_samples):
    samples = noise(num_samples)
    features = compute_fbank(samples, FeatureConfig(preset=preset))
    assert features.dtype == np.float32
    # float32 FFT against float64: 1e-3 of a log unit is a tenth of a percent in power
    np.testing.assert_allclose(features, reference_fbank(samples, preset, 80), rtol=0, atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("pieces", [[1], [160], [37, 401, 5], [16000]])
def test_stream_equals_batch_bit_for_bit(preset, pieces):
    config, samples = FeatureConfig(preset=preset), noise(5003)
    online, frames, start = OnlineFbank(config), [], 0
    while start < len(samples):
        size = pieces[len(frames) % len(pieces)]
        online.accept(samples[start : start + size])
        frames.append(online.pop())
        start += size
    online.finish()
    frames += [online.pop(), online.pop()]
    assert len(frames[-1]) == 0
    assert np.array_equal(np.concatenate(frames), compute_fbank(samples, config))


@pytest.mark.parametrize("num_samples", [0, 79, 80, 239, 240, 399, 16000, 17778])
def test_number_of_frames_is_lhotses(num_samples):
    features = compute_fbank(noise(num_samples), FeatureConfig())
    assert features.shape == (compute_num_frames_from_samples(num_samples, 0.01, RATE), 80)


def test_digital_silence_is_the_floor():
    for preset in PRESETS:
        features = compute_fbank(np.zeros(1600, np.float32), FeatureConfig(preset=preset))
        np.testing.assert_allclose(features, LOG_FLOOR, rtol=1e-6)


def test_dc_offset_is_removed_by_kaldi_only():
    samples = noise(4000)
    for preset, same in [("kaldi", True), ("sherpa", False)]:
        config = FeatureConfig(preset=preset)
        shifted, plain = compute_fbank(samples + np.float32(0.3), config), compute_fbank(samples, config)
        assert np.allclose(shifted, plain, atol=2e-2) == same  # float32: an offset of 0.3 costs some digits


def test_other_bin_counts_and_rates():
    assert compute_fbank(noise(1600), FeatureConfig(num_mel_bins=40)).shape == (10, 40)
    telephone = FeatureConfig(preset="kaldi", sample_rate_hz=8000, num_mel_bins=23)
    assert compute_fbank(noise(800), telephone).shape == (10, 23)


@pytest.mark.parametrize(
    "config, words",
    [
        (FeatureConfig(preset="sherpo"), ["sherpo", "sherpa, kaldi", "Did you mean 'sherpa'"]),
        (FeatureConfig(sample_rate_hz=8000), ["8000", "16000", "resample"]),
        (FeatureConfig(num_mel_bins=0), ["num_mel_bins", "80"]),
    ],
)
def test_impossible_definitions_are_refused(config, words):
    with pytest.raises(UserError) as error:
        compute_fbank(noise(1600), config)
    assert all(word in str(error.value) for word in words)


def test_two_channels_are_refused():
    with pytest.raises(UserError, match="one channel"):
        KnfFbank().extract(np.zeros((2, 1600), np.float32), RATE)


def test_lhotse_extractor():
    extractor = KnfFbank(FeatureConfig(preset="kaldi", num_mel_bins=40))
    assert get_extractor_type("residualformer-fbank") is KnfFbank
    again = FeatureExtractor.from_dict(extractor.to_dict())
    assert type(again) is KnfFbank and again.config == extractor.config
    assert extractor.feature_dim(RATE) == 40 and extractor.frame_shift == 0.01
    samples = noise(3000)
    expected = compute_fbank(samples, FeatureConfig(preset="kaldi", num_mel_bins=40))
    for given in (samples, samples[None], torch.from_numpy(samples)):
        assert np.array_equal(again.extract(given, RATE), expected)
    with pytest.raises(UserError, match="8000 Hz.*16000.*resample"):
        extractor.extract(samples, 8000)


def test_reading_the_definition_and_the_statistics(tmp_path):
    for read in (read_feature_config, read_cmvn):
        with pytest.raises(UserError, match="missing: run stage 2 first"):
            read(tmp_path)
    config = FeatureConfig(num_mel_bins=3)
    write_feature_files(tmp_path, config, Statistics([1, 2, 3.5], [1, 1, 2], 5))
    assert read_feature_config(tmp_path) == config
    mean, std = read_cmvn(tmp_path)
    assert mean.tolist() == [1, 2, 3.5] and std.tolist() == [1, 1, 2] and mean.dtype == std.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mean": [1, 2], "std": [1, 1], "frames": 5}, "does not hold mean and std of 3 bins"),
        ({"mean": [1, 2, 3], "std": [1, 0, 2], "frames": 5}, r"std\[1\] must be a number of more than 0, not 0"),
        ({"mean": [1, 2, float("nan")], "std": [1, 1, 2], "frames": 5}, r"mean\[2\] must be a number, not nan"),
        ({"mean": [1, 2, 1e300], "std": [1, 1, 2], "frames": 5}, "does not hold mean and std of 3 bins"),
        ({"mean": 3, "std": ["a"] * 3, "frames": 5}, "mean must be a list, not 3"),
        ({"mean": [1, 2, 3], "std": ["a"] * 3, "frames": 5}, r"std\[0\] must be a number, not 'a'"),
        ({"mean": [1, 2, 3], "std": [1, 1, 2], "frames": True}, "frames must be a whole number, not True"),
        ({}, "mean is missing"),
    ],
)
def test_wrong_statistics_are_named(tmp_path, content, words):
    write_feature_files(tmp_path, FeatureConfig(num_mel_bins=3), Statistics([1, 2, 3.5], [1, 1, 2], 5))
    write_checked_json(tmp_path / "cmvn.json", content)
    with pytest.raises(UserError, match=f"cmvn.json:? {words}.*: run stage 2"):
        read_cmvn(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"preset": "shepra", "sample_rate_hz": 16000, "num_mel_bins": 3}, "Did you mean 'sherpa'"),
        ({"preset": "sherpa", "sample_rate_hz": 1e4, "num_mel_bins": 3}, "sample_rate_hz must be a whole number"),
        ({"preset": "sherpa", "sample_rate_hz": 16000, "num_mel_bins": "3"}, "num_mel_bins must be a whole number"),
        (
            {"preset": "sherpa", "sample_rate_hz": 16000, "num_mel_bins": 0},
            "num_mel_bins must be a whole number of more than 0",
        ),
    ],
)
def test_a_wrong_definition_is_named(tmp_path, content, words):
    write_checked_json(tmp_path / "features.json", content)
    with pytest.raises(UserError, match=f"features.json: .*{words}.*: run stage 2"):
        read_feature_config(tmp_path)


def test_every_flipped_bit_of_the_statistics_is_noticed_or_changes_nothing(tmp_path):
    write_feature_files(tmp_path, FeatureConfig(num_mel_bins=3), Statistics([1, 2, 3.5], [1, 1, 2], 5))
    for name in ("cmvn.json", "features.json"):
        content = (tmp_path / name).read_bytes()
        known = read_feature_config(tmp_path), *(part.tolist() for part in read_cmvn(tmp_path))
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(flipped)
            try:
                read = read_feature_config(tmp_path), *(part.tolist() for part in read_cmvn(tmp_path))
            except UserError:
                continue
            assert read == known
        (tmp_path / name).write_bytes(content)
