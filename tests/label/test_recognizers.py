"""Recognizers by what names them: commands, models of our own, Whisper models; each mistake has a sentence."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.toy_training import CONFIG, TOKENIZER

import residualformer
from residualformer.errors import UserError
from residualformer.label.options import add_label_options, check_label_options
from residualformer.label.recognizers import Command, Own, make_recognizer, recognizer_words
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.optional import is_installed
from residualformer.workflow.options import CALLED_FROM


@pytest.fixture
def wav(tmp_path) -> Path:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 8000)
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    return tmp_path / "a.wav"


def test_a_command_is_split_into_words_as_in_a_terminal(wav):
    echo = make_recognizer(
        f"{sys.executable} -c 'import sys; print(sys.argv[1:])' --in={{audio}} 'two words' {{audio}}"
    )
    assert echo.hear(wav) == str([f"--in={wav}", "two words", str(wav)])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sh -c 'asr {audio}'", "must be an argument of its own, as in 'my-asr --in {audio}'"),
        ("{audio} --text", "must be an argument of its own"),
        ("asr 'x{audio}", "No closing quotation; write the command as in a terminal"),
        ("no-such-asr {audio}", "there is no program no-such-asr; install it, or give its path"),
        ("./no-such-asr {audio}", "there is no program ./no-such-asr"),
        ("no/such/run", "no/such/run does not exist: give faster-whisper:MODEL, a run folder or an exported one, or"),
    ],
)
def test_a_recognizer_that_cannot_be_is_refused(words, told):
    with pytest.raises(UserError, match=f"^--recognizer .*{told}"):
        make_recognizer(words)


def test_a_program_that_says_what_is_wrong_or_hangs(wav, monkeypatch):
    code = "import sys; print('a'); sys.exit('first\\nlast line')"
    with pytest.raises(UserError, match=r"ended with 1 \(last line\)"):
        Command((sys.executable, "-c", code, "{audio}")).hear(wav)
    monkeypatch.setattr("residualformer.label.recognizers.TIMEOUT_S", 0.2)
    with pytest.raises(UserError, match="took longer than 0 s"):
        Command((sys.executable, "-c", "import time; time.sleep(60)", "{audio}")).hear(wav)


def test_a_model_of_ours_hears_as_it_transcribes(tmp_path, wav):
    torch.manual_seed(0)
    run = tmp_path / "run"
    run.mkdir()
    weights = build_model(CONFIG, TOKENIZER.vocab_size).state_dict()
    checkpoint.save_model(run / "model.safetensors", weights, CONFIG, TOKENIZER, {})
    recognizer = make_recognizer(str(run))
    recognizer.load()
    assert isinstance(recognizer, Own) and recognizer.hear(wav) == residualformer.load(run).transcribe(wav).text
    assert recognizer.name.startswith(f"residualformer {residualformer.__version__} run/model.safetensors [")
    weights["joiner.vocabulary.bias"] += 1
    checkpoint.save_model(run / "model.safetensors", weights, CONFIG, TOKENIZER, {})
    assert make_recognizer(str(run)).name != recognizer.name  # texts of another model are not its own
    with pytest.raises(UserError, match="holds neither model.safetensors nor"):
        Own(tmp_path, "x").load()


@pytest.mark.skipif(is_installed("faster_whisper"), reason="faster_whisper is installed")
def test_whisper_that_is_missing_is_told_with_its_extra():
    with pytest.raises(
        UserError, match=r"faster_whisper .* not installed; to get it: pip install '\.\[teacher\]' in the repository"
    ):
        make_recognizer("faster-whisper:base.en")


def test_paths_are_seen_from_where_the_script_was_called(tmp_path, monkeypatch):
    monkeypatch.setenv(CALLED_FROM, str(tmp_path))
    (tmp_path / "whisper").mkdir()
    assert recognizer_words("run") == str(tmp_path / "run")
    assert recognizer_words("faster-whisper:whisper") == f"faster-whisper:{tmp_path / 'whisper'}"
    assert recognizer_words("faster-whisper:base.en") == "faster-whisper:base.en"
    assert recognizer_words("asr {audio}") == "asr {audio}"
    with pytest.raises(argparse.ArgumentTypeError, match="it must be faster-whisper:MODEL, a run folder"):
        recognizer_words("faster-whisper:")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--recognizer is given 0 times; give one or two"),
        (["--recognizer", "a"] * 3, "given 3 times"),
        (["--recognizer", "a", "--max-wer", "5"], "--max-wer says how far two recognizers may differ"),
    ],
)
def test_one_or_two_recognizers(words, told):
    parser = argparse.ArgumentParser()
    add_label_options(parser)
    with pytest.raises(UserError, match=told):
        check_label_options(parser.parse_args(words))
