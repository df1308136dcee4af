"""Back-ends of the features: the table, its errors, and which options kaldifeat would get (it is seldom installed)."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, Recording
from support.audio import RATE, noise

from residualformer.config.schema import FeatureConfig
from residualformer.data.extract import extract_features
from residualformer.data.fbank import PRESETS, compute_fbank
from residualformer.data.feature_backends import BACKENDS, get_backend
from residualformer.errors import UserError
from residualformer.optional import is_installed

KALDI = FeatureConfig(preset="kaldi")
LIKE_KALDIS = [name for name, preset in PRESETS.items() if not preset["is_librosa"]]

# A kaldifeat with the options and defaults of the real one (its test_fbank_options.py) and no others. It notes the
# options it is given, and computes by kaldi-native-fbank with these very options.
FAKE = """
from types import SimpleNamespace
import kaldi_native_fbank, torch
__version__ = "1.25.5.dev20250630+cpu.torch2.7.1"
given = []

class Options:
    def __init__(self, **defaults):
        self.__dict__.update(defaults)

    def __setattr__(self, name, value):
        assert name in self.__dict__, f"kaldifeat has no option {name}"
        assert isinstance(value, (type(self.__dict__[name]), int)), name
        self.__dict__[name] = value

def FbankOptions():
    frame = Options(
        samp_freq=16000.0, frame_shift_ms=10.0, frame_length_ms=25.0, dither=1.0, preemph_coeff=0.97,
        remove_dc_offset=True, window_type="povey", round_to_power_of_two=True, blackman_coeff=0.42, snip_edges=True,
    )
    mel = Options(
        num_bins=23, low_freq=20.0, high_freq=0.0, vtln_low=100.0, vtln_high=-500.0, debug_mel=False, htk_mode=False
    )
    return Options(
        frame_opts=frame, mel_opts=mel, use_energy=False, energy_floor=0.0, raw_energy=True, htk_compat=False,
        use_log_fbank=True, use_power=True, device=torch.device("cpu"),
    )

class Fbank:
    def __init__(self, options):
        given.append(options)
        self.options = kaldi_native_fbank.FbankOptions()
        for name in ("frame_opts", "mel_opts"):
            for key, value in vars(getattr(options, name)).items():
                setattr(getattr(self.options, name), key, value)

    def __call__(self, wave):
        assert wave.ndim == 1 and wave.dtype == torch.float32
        fbank = kaldi_native_fbank.OnlineFbank(self.options)
        fbank.accept_waveform(self.options.frame_opts.samp_freq, wave.numpy())
        fbank.input_finished()
        return torch.stack([torch.from_numpy(fbank.get_frame(i).copy()) for i in range(fbank.num_frames_ready)])
"""


@pytest.fixture
def fake_kaldifeat(tmp_path, monkeypatch):
    """The file of a made-up kaldifeat, on a machine without a GPU."""
    path = tmp_path / "modules" / "kaldifeat.py"
    path.parent.mkdir()
    path.write_text(FAKE)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, "kaldifeat", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield path
    sys.modules.pop("kaldifeat", None)


def test_knf_is_always_there():
    assert get_backend("knf", FeatureConfig()).backend == "knf"
    assert np.array_equal(get_backend("knf", KALDI).extract(noise(3000), RATE), compute_fbank(noise(3000), KALDI))


@pytest.mark.parametrize("config", [KALDI, FeatureConfig(preset="kaldi", sample_rate_hz=8000, num_mel_bins=23)])
def test_kaldifeat_gets_the_options_of_the_definition(fake_kaldifeat, config):
    extractor = get_backend("kaldifeat", config)
    assert extractor.backend == "kaldifeat"
    options = sys.modules["kaldifeat"].given[-1]
    assert options.device == torch.device("cpu") and not options.use_energy
    frame, mel = options.frame_opts, options.mel_opts
    assert (frame.samp_freq, mel.num_bins) == (config.sample_rate_hz, config.num_mel_bins)
    assert (frame.frame_length_ms, frame.frame_shift_ms, frame.preemph_coeff) == (25.0, 10.0, 0.97)
    assert (frame.dither, frame.snip_edges, frame.remove_dc_offset, frame.window_type) == (0.0, False, True, "povey")
    assert (mel.low_freq, mel.high_freq) == (20.0, -400.0)
    # and so, the same features: bit for bit here, where the fake computes them by the same library
    for samples in (noise(3000), noise(3000)[None], noise(3000).astype(np.float64)):
        features = extractor.extract(samples, config.sample_rate_hz)
        assert features.dtype == np.float32 and np.array_equal(features, compute_fbank(noise(3000), config))


def test_kaldifeat_is_asked_for_the_gpu_that_is_there(fake_kaldifeat, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    get_backend("kaldifeat", KALDI)
    assert sys.modules["kaldifeat"].given[-1].device == torch.device("cuda")


def test_what_every_extractor_refuses_kaldifeat_refuses(fake_kaldifeat):
    extractor = get_backend("kaldifeat", KALDI)
    with pytest.raises(UserError, match="one channel"):
        extractor.extract(np.zeros((2, 1600), np.float32), RATE)
    with pytest.raises(UserError, match="8000 Hz.*16000.*resample"):
        extractor.extract(noise(1600), 8000)
    with pytest.raises(UserError, match="num_mel_bins is 0"):
        get_backend("kaldifeat", FeatureConfig(preset="kaldi", num_mel_bins=0))


def test_a_preset_with_slaneys_mels_is_refused_installed_or_not():
    assert LIKE_KALDIS == ["kaldi"]
    with pytest.raises(UserError, match="'sherpa' has Slaney's mel scale.*choose feature back-end knf.*preset kaldi"):
        get_backend("kaldifeat", FeatureConfig(preset="sherpa"))


@pytest.mark.skipif(is_installed("kaldifeat"), reason="kaldifeat is installed")
def test_a_missing_kaldifeat_is_answered_with_the_table():
    with pytest.raises(UserError) as error:
        get_backend("kaldifeat", KALDI)
    first, *table = str(error.value).splitlines()
    assert first.startswith("feature back-end 'kaldifeat' cannot be used: kaldifeat ") and "is not installed" in first
    assert table[:2] == ["feature back-ends:", "  knf: installed"]
    assert table[2].startswith("  kaldifeat (filterbank features on a GPU) is not installed; to get it: ")
    assert "pip install kaldifeat" in table[2] and len(table) == len(BACKENDS) + 1


def test_a_kaldifeat_for_another_torch_is_answered_with_the_table(fake_kaldifeat):
    fake_kaldifeat.write_text("raise ImportError('kaldifeat was built using PyTorch 2.7.1')")
    with pytest.raises(UserError, match="does not import .*PyTorch 2.7.1.*\nfeature back-ends:\n  knf: installed"):
        get_backend("kaldifeat", KALDI)


def test_an_unknown_back_end_is_answered_with_the_table():
    with pytest.raises(UserError, match="'kaldifeet'; it must be auto, knf, kaldifeat.*Did you mean 'kaldifeat'.\n"):
        get_backend("kaldifeet", KALDI)


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_is_kaldifeat_only_on_a_gpu_and_for_its_presets(fake_kaldifeat, monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert get_backend("auto", KALDI).backend == ("kaldifeat" if gpu else "knf")
    assert get_backend("auto", FeatureConfig()).backend == "knf"
    fake_kaldifeat.write_text("raise ImportError")
    sys.modules.pop("kaldifeat", None)
    assert get_backend("auto", KALDI).backend == "knf"


def test_a_corpus_is_extracted_by_the_chosen_back_end(fake_kaldifeat, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(8000), RATE)
    cut = MonoCut("a", 0.0, 0.5, 0, recording=Recording.from_file(tmp_path / "a.wav"))
    (part,) = extract_features([(cut, 1.0)], KALDI, tmp_path / "arrays", backend="kaldifeat")
    assert len(sys.modules["kaldifeat"].given) == 1 and part.skipped == []
    assert np.array_equal(part.cuts[0].load_features(), compute_fbank(cut.load_audio()[0], KALDI))
