"""Audio files: impossible sampling rates, and imports that the torch-free runtime relies on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from residualformer.config.schema import FeatureConfig
from residualformer.data.audio import MAX_RATE_HZ, MIN_RATE_HZ, read_audio
from residualformer.data.extract import extract_features
from residualformer.data.validate import CorpusUtterance, make_cut, validate_cuts
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
    (part,) = extract_features([make_cut(utterance)], FeatureConfig(), tmp_path / "arrays")
    assert part.cuts == [] and words in part.skipped[0]


@pytest.mark.parametrize("rate", [MIN_RATE_HZ, MAX_RATE_HZ])
def test_possible_sampling_rates_are_read(tmp_path, rate):
    write_with_rate(tmp_path / "a.wav", rate)
    assert len(read_audio(tmp_path / "a.wav", 16000)) == pytest.approx(1000 * 16000 / rate, abs=1)


@pytest.mark.parametrize("module", ["audio", "fbank"])
def test_audio_and_features_need_neither_torch_nor_lhotse(root, module):
    code = f"import sys; sys.modules |= dict.fromkeys(('torch', 'lhotse')); import residualformer.data.{module}"
    subprocess.run([sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)}, check=True)
