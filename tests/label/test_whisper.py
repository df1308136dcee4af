"""Whisper models: how much of the window they get, and when a text is heard again; a stand-in takes their place."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from residualformer.errors import UserError
from residualformer.label.recognizers import make_recognizer
from residualformer.label.whisper import Whisper, is_doubtful

# The stand-in hears in a short window what the file SHORT says, with the number of frames that it got, and in the
# whole one "whole" with the number of samples. Features are 80 values a frame of 160 samples, as Whisper's.
MODULE = """
import numpy as np
from types import SimpleNamespace
__version__ = '1.9'
class WhisperModel:
    hf_tokenizer = None
    def __init__(self, model, device, compute_type):
        if model == 'bad': raise ValueError('no such size\\nmore')
        self.model = SimpleNamespace(is_multilingual=True, generate=self.generate)
    def transcribe(self, samples, language, temperature, beam_size, condition_on_previous_text):
        assert samples.dtype == 'float32' and (language, temperature) == ('en', 0.0)
        return iter([SimpleNamespace(text=' whole'), SimpleNamespace(text=f' {len(samples)}')]), None
    def feature_extractor(self, samples, padding):
        assert samples.dtype == 'float32' and padding == 0
        return np.zeros((80, 1 + len(samples) // 160))
    def encode(self, features):
        return features
    def generate(self, features, prompts, beam_size):
        assert prompts == [['<en>', '<plain>']]
        return [SimpleNamespace(sequences_ids=[features.shape[1]])]
"""
TOKENIZER = """
class Tokenizer:
    no_timestamps = '<plain>'
    def __init__(self, tokens, is_multilingual, task, language):
        assert (is_multilingual, task, language) == (True, 'transcribe', 'en')
        self.sot_sequence = ('<en>',)
    def decode(self, frames):
        return open(__file__[:-len('tokenizer.py')] + 'SHORT').read().format(frames=frames)
"""


@pytest.fixture
def whisper(tmp_path, monkeypatch):
    """Return a function that lets a model hear so many seconds of noise, saying a text in a short window."""
    folder = tmp_path / "faster_whisper"
    folder.mkdir()
    (folder / "__init__.py").write_text(MODULE)
    (folder / "tokenizer.py").write_text(TOKENIZER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("residualformer.optional._version", lambda module, *_: module.__version__)
    for name in [name for name in sys.modules if name.split(".")[0] == "faster_whisper"]:
        monkeypatch.delitem(sys.modules, name)

    def hear(seconds: float, text: str) -> str:
        (folder / "SHORT").write_text(text)
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(8000 * seconds))
        soundfile.write(tmp_path / "a.wav", samples, 8000)
        recognizer = make_recognizer(f"faster-whisper:{tmp_path.name}")  # models are cached by name
        assert isinstance(recognizer, Whisper) and recognizer.name == f"faster-whisper 1.9 {tmp_path.name}"
        recognizer.load()
        return recognizer.hear(Path(tmp_path / "a.wav"))

    yield hear
    for name in [name for name in sys.modules if name.split(".")[0] == "faster_whisper"]:
        del sys.modules[name]


def test_the_encoder_gets_the_recording_and_five_seconds_more(whisper):
    assert whisper(1.0, "Hello, {frames}.") == "Hello, 600."
    assert whisper(1.01, "Hello, {frames}.") == "Hello, 600."  # 601 frames, but their number is even


def test_what_fills_the_window_is_heard_in_the_whole_one(whisper):
    assert whisper(24.5, "{frames}") == "2950"
    assert whisper(25.0, "{frames}") == "whole 400000"


@pytest.mark.parametrize("text", ["", "So it is. So it is.", "No. No.", "one two three four five One two, three four"])
def test_a_doubtful_text_is_heard_again_in_the_whole_window(whisper, text):
    assert is_doubtful(text)
    assert whisper(1.0, text) == "whole 16000"


@pytest.mark.parametrize("text", ["Yes.", "the cat and the dog and the cat", "one two three four one two three"])
def test_words_that_come_again_are_no_reason_for_doubt(text):
    assert not is_doubtful(text)


def test_a_model_that_cannot_be_loaded_is_told(whisper):
    with pytest.raises(UserError, match=r"cannot load 'bad' \(no such size\): give the name of a model, or the folder"):
        make_recognizer("faster-whisper:bad").load()
