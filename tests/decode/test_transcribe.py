"""Audio files of any kind into text, and what is said about those that are no audio."""

import argparse
import json

import numpy as np
import pytest
import soundfile
import torch
from decode_models import save_random_run
from test_validate import without_its_first_frame

from residualformer.cli.transcribe import add_arguments, run
from residualformer.data.audio import read_audio
from residualformer.errors import UserError

RATE = 16000


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


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


def damaged(folder) -> dict[str, str]:
    """File name -> a word of what is wrong with it."""
    soundfile.write(folder / "whole.wav", tone(RATE), RATE)
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
    whole = (folder / "whole.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "header.wav").write_bytes(whole[:30])
    (folder / "cut.flac").write_bytes((folder / "whole.flac").read_bytes()[:9000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no audio " * 100)
    soundfile.write(folder / "silent.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    return {
        "cut.wav": "truncated",
        "header.wav": "cannot be read",
        "cut.flac": "cannot be read",
        "empty.wav": "0 bytes",
        "text.wav": "cannot be read",
        "silent.wav": "no samples",
        "nan.wav": "not finite",
        "missing.wav": "not a file",
    }


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


def transcribe(*arguments) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcribe")
    save_random_run(folder / "run")
    rng = np.random.default_rng(1)
    soundfile.write(folder / "a.wav", rng.uniform(-1, 1, (8000, 2)), 8000)
    soundfile.write(folder / "b.flac", tone(44100, 1.7), 44100)
    return folder


@pytest.mark.parametrize("options", [[], ["--greedy"], ["--beam", 4], ["--streaming"]])
def test_one_line_for_each_file(folder, capsys, options):
    transcribe("--model", folder / "run", folder / "a.wav", folder / "b.flac", *options)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [str(folder / "a.wav"), str(folder / "b.flac")]
    assert all(len(line) == 2 for line in lines) and any(line[1] for line in lines)


def test_json_tells_tokens_times_and_scores(folder, capsys):
    transcribe("--model", folder / "run" / "model.pt", folder / "a.wav", folder / "b.flac", "--json")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["duration"], second["duration"]) == (1.0, 1.7)
    for found in (first, second):
        assert len(found["times"]) == len(found["tokens"]) and found["score"] < 0
        assert all(0 <= time < found["duration"] for time in found["times"])
        assert "".join(found["tokens"]).replace("\u2581", " ") == found["text"]


def test_streaming_equals_greedy(folder, capsys):
    outputs = []
    for option in ("--greedy", "--streaming"):
        transcribe("--model", folder / "run", folder / "a.wav", folder / "b.flac", "--json", option)
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for whole, chunks in zip(*outputs, strict=True):
        assert (whole["text"], whole["times"]) == (chunks["text"], chunks["times"])
        assert whole["score"] == pytest.approx(chunks["score"], abs=1e-3)  # sums of up to 200 float32 log-probabilities


def test_a_bad_file_is_named_and_the_others_go_on(folder, tmp_path, capsys):
    bad = [tmp_path / name for name in damaged(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        transcribe("--model", folder / "run", *bad, folder / "a.wav")
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert len(printed.out.splitlines()) == 1 and printed.out.startswith(str(folder / "a.wav"))
    assert len(printed.err.splitlines()) == len(bad) and all(str(path) in printed.err for path in bad)


def test_nothing_usable_and_contradictions_are_errors(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", np.zeros(40), RATE)
    with pytest.raises(UserError, match="none of the 2 files"):
        transcribe("--model", folder / "run", tmp_path / "short.wav", tmp_path / "missing.wav")
    assert "too short" in capsys.readouterr().err
    with pytest.raises(UserError, match="does not go with --streaming"):
        transcribe("--model", folder / "run", folder / "a.wav", "--streaming", "--beam", 4)
    with pytest.raises(UserError, match="decode.beam"):
        transcribe("--model", folder / "run", folder / "a.wav", "--beam", 0)
    with pytest.raises(UserError, match="--rate 8000 is the rate of the microphone .* leave it out"):
        transcribe("--model", folder / "run", folder / "a.wav", "--rate", 8000)
    with pytest.raises(UserError, match="--threads is 0; give 1 or more"):
        transcribe("--model", folder / "run", folder / "a.wav", "--threads", 0)


def test_a_model_that_does_not_exist_is_named_with_the_closest_name(folder, tmp_path):
    (tmp_path / "exp" / "residual").mkdir(parents=True)
    (tmp_path / "exp" / "encoder.onnx").touch()  # what lies beside it does not matter
    cases = {
        "exp/residul": "exp/residul does not exist. Did you mean 'residual'?",
        "exq/residual": "exq/residual does not exist, because there is no .*exq. Did you mean 'exp'?",
        "exp/residual/model.pt": "model.pt does not exist.$",
        "exp/residual/x/y": "y does not exist, because there is no .*x.$",
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            transcribe("--model", tmp_path / name, folder / "a.wav")


def test_threads_are_those_of_torch(folder, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    transcribe("--model", folder / "run", folder / "a.wav")
    assert given == []  # torch's own number unless somebody asks
    transcribe("--model", folder / "run", folder / "a.wav", "--threads", 2)
    assert given == [2]
