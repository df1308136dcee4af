"""`residualformer transcribe` with a run folder: texts, scores and times of audio files, and what it refuses."""

import json

import numpy as np
import pytest
import soundfile
import torch
from support.audio import RATE, damaged, tone
from support.commands import transcribe
from support.transducers import save_random_run

from residualformer.errors import UserError


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
    transcribe("--model", folder / "run" / "model.safetensors", folder / "a.wav", folder / "b.flac", "--json")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["duration"], second["duration"]) == (1.0, 1.7)
    for found in (first, second):
        assert len(found["times"]) == len(found["tokens"]) and found["score"] < 0
        assert all(0 <= time < found["duration"] for time in found["times"])
        assert "".join(found["tokens"]).replace("\u2581", " ") == found["text"]


@pytest.mark.parametrize("search", [["--greedy"], ["--beam", 4]], ids=["greedy", "beam"])
def test_streaming_equals_the_whole(folder, capsys, search):
    outputs = []
    for options in (search, ["--streaming", *(search if "--beam" in search else [])]):
        transcribe("--model", folder / "run", folder / "a.wav", folder / "b.flac", "--json", *options)
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
    with pytest.raises(UserError, match="no file could be transcribed"):
        transcribe("--model", folder / "run", tmp_path / "short.wav", tmp_path / "missing.wav")
    assert "too short" in capsys.readouterr().err
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
        "exp/residual/model.safetensors": "model.safetensors does not exist.$",
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
