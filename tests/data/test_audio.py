"""Audio files of any rate, number of channels and format; damaged ones; imports that the torch-free runtime needs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.audio import RATE, damaged, tone, without_its_first_frame

from residualformer.config.schema import FeatureConfig
from residualformer.data.audio import MAX_RATE_HZ, MIN_RATE_HZ, read_audio
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.extract import extract_features
from residualformer.data.validate import make_cut, validate_cuts
from residualformer.errors import UserError


def write_with_rate(path, rate: int) -> None:
    """Write a WAV of 1000 samples whose header states `rate`."""
    soundfile.write(path, np.zeros(1000, np.int16), 16000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("rate", [1, MIN_RATE_HZ - 1, MAX_RATE_HZ + 1, 2_000_000_000])
def test_an_impossible_sampling_rate_is_refused_before_any_resampling(tmp_path, rate):
    path = tmp_path / "a.wav"
    write_with_rate(path, rate)
    words = f"states a sampling rate of {rate} Hz; allowed are 2000 to 384000 Hz"
    with pytest.raises(UserError, match=f"a.wav {words}: convert it"):
        read_audio(path, 16000)
    utterance = CorpusUtterance("a", path, "HELLO", "s")
    with pytest.raises(UserError, match=f"no usable utterance in 'train'.*its audio {words}"):
        validate_cuts([utterance], "train")
    (part,) = extract_features([(make_cut(utterance), 1.0)], FeatureConfig(), tmp_path / "arrays")
    assert part.cuts == [] and words in part.skipped[0]


@pytest.mark.parametrize("rate", [MIN_RATE_HZ, MAX_RATE_HZ])
def test_possible_sampling_rates_are_read(tmp_path, rate):
    write_with_rate(tmp_path / "a.wav", rate)
    assert len(read_audio(tmp_path / "a.wav", 16000)) == pytest.approx(1000 * 16000 / rate, abs=1)


@pytest.mark.parametrize("module", ["audio", "fbank"])
def test_audio_and_features_need_neither_torch_nor_lhotse(root, module):
    code = f"import sys; sys.modules |= dict.fromkeys(('torch', 'lhotse')); import residualformer.data.{module}"
    subprocess.run([sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)}, check=True)


def middle_error(path, expected: np.ndarray) -> float:
    """Largest difference away from the edges, where a resampler rings."""
    return float(np.abs(read_audio(path, RATE) - expected)[800:-800].max())


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_rate_and_channel_count_gives_the_same_tone(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", np.repeat(tone(rate)[:, None], channels, axis=1), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav", RATE)
    assert samples.dtype == np.float32 and samples.shape == (RATE,)
    assert middle_error(tmp_path / "a.wav", tone(RATE)) < 1e-3  # soxr's passband is flat to 0.01 dB, 1.2e-3 relative


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_U8"), ("flac", "PCM_24"), ("aiff", None)]
)
def test_formats(tmp_path, suffix, subtype):
    soundfile.write(tmp_path / f"a.{suffix}", tone(RATE), RATE, subtype=subtype)
    assert middle_error(tmp_path / f"a.{suffix}", tone(RATE)) < (1 / 128 if subtype == "PCM_U8" else 1e-4)


def test_channels_are_averaged(tmp_path):
    left, right = tone(RATE), tone(RATE, hz=1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE), (left + right) / 2, atol=1e-7)


def test_unusable_audio_is_refused_by_name(tmp_path):
    for name, word in damaged(tmp_path).items():
        with pytest.raises(UserError, match=word) as refused:
            read_audio(tmp_path / name, RATE)
        assert name in str(refused.value)


def test_a_wav_from_a_pipe_states_no_length(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    start = data.index(b"data") + 4
    for stated in (0xFFFFFFFF, 0x80000000, 0x7FFFF000):  # ffmpeg, arecord, sox
        data[start : start + 4] = stated.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(data)
        assert len(read_audio(tmp_path / "a.wav", RATE)) == RATE


@pytest.mark.parametrize("rate", [48000, 44100])
def test_an_mp3_that_states_no_length(tmp_path, rate):
    """libsndfile's guess of it may be larger than what is there."""
    path, samples = tmp_path / "a.mp3", tone(rate)
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    path.write_bytes(without_its_first_frame(path.read_bytes()))
    assert rate <= len(read_audio(path, rate)) < rate + 3 * 1152  # the encoder's delay and whole frames


def test_the_length_in_a_header_is_not_allocated(tmp_path):
    """A FLAC may state 2^36 - 1 samples, 256 GiB."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(1000, np.int16), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the samples' number: 36 bits from the middle of byte 21
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated|cannot be read"):
        read_audio(path, 16000)
    with pytest.raises(UserError, match="no usable utterance"):
        validate_cuts([CorpusUtterance("a", path, "HELLO", "s")], "train")
