"""`residualformer transcribe` with an exported folder: files, standard input, partial results, endpoints, errors."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.audio import damaged
from support.commands import transcribe
from support.loud_model import RATE, SPEECH, A, save_folder, sound

from residualformer.errors import UserError
from residualformer.runtime import Recognizer

LONG = sound((0, 1.0), (A, 0.4), (0, 2.0), (A, 0.4), (0, 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_folder(tmp_path_factory.mktemp("transcribe") / "export")
    soundfile.write(folder / "a.wav", SPEECH, RATE)
    soundfile.write(folder / "b.flac", np.repeat(sound((A, 0.5), rate=44100)[:, None], 2, axis=1), 44100)
    soundfile.write(folder / "long.wav", LONG, RATE)
    soundfile.write(folder / "silence.wav", np.zeros(RATE), RATE)
    return folder


def printed(capsys) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("options", [[], ["--greedy"], ["--beam", 4], ["--streaming"], ["--threads", 2]])
def test_one_line_for_each_file(folder, capsys, options):
    files = [folder / name for name in ("a.wav", "b.flac", "silence.wav")]
    transcribe("--model", folder, *files, *options)
    assert printed(capsys) == [[str(files[0]), "a b a"], [str(files[1]), "a"], [str(files[2]), ""]]


def test_json_tells_tokens_times_latencies_and_scores(folder, capsys):
    transcribe("--model", folder, folder / "a.wav", folder / "silence.wav", "--json")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["text"] == "a b a" and first["tokens"] == ["\u2581a", "\u2581b", "\u2581a"]
    assert first["times"] == pytest.approx([0.5, 1.0, 2.1], abs=0.04) and first["score"] <= 0
    assert len(first["needed"]) == len(first["latencies"]) == 3
    assert first["duration"] == pytest.approx(len(SPEECH) / RATE, abs=1e-3)
    assert (second["text"], second["tokens"], second["duration"]) == ("", [], 1.0)


def test_partial_results_come_before_the_last(folder, capsys):
    transcribe("--model", folder, folder / "a.wav", "--partial")
    *partial, last = printed(capsys)
    assert [line[2] for line in partial] == ["a", "a b", "a b a"] and last[1:] == ["a b a"]
    transcribe("--model", folder, folder / "a.wav", "--partial", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("partial") for line in lines] == ["a", "a b", "a b a", None]
    assert [line["end"] for line in lines[:-1]] == sorted(line["end"] for line in lines[:-1])


def test_endpoints_give_a_line_for_each_utterance(folder, capsys):
    transcribe("--model", folder, folder / "long.wav", "--endpoint")
    lines = printed(capsys)
    assert [line[2] for line in lines] == ["a", "a"]
    start, end = (tuple(map(float, line[1].split("-"))) for line in lines)
    assert start[0] == 0 < start[1] == end[0] < end[1] <= len(LONG) / RATE


def test_standard_input_has_endpoints_unless_told_otherwise(folder, capsys, monkeypatch):
    for options, texts in ((["--endpoint"], ["a", "a"]), ([], ["a", "a"]), (["--no-endpoint"], ["a"])):
        data = io.BytesIO((LONG * 32767).astype("<i2").tobytes())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
        transcribe("--model", folder, "-", *options)
        lines = printed(capsys)
        assert [line[-1] for line in lines] == texts and all(line[0] == "-" for line in lines)


def test_a_pipe_into_the_command_and_no_torch(folder):
    command = "import sys, residualformer.cli as cli; sys.argv[1:] = {}; cli.main(); sys.exit('torch' in sys.modules)"
    code = command.format(["transcribe", "--model", str(folder), "-"])
    data = (folder / "a.wav").read_bytes()
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[0].endswith("\ta b a")


def test_a_bad_file_is_named_and_the_others_go_on(folder, tmp_path, capsys):
    bad = [tmp_path / name for name in damaged(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        transcribe("--model", folder, *bad, folder / "a.wav")
    output = capsys.readouterr()
    assert ended.value.code == 1
    assert output.out.splitlines() == [f"{folder / 'a.wav'}\ta b a"]
    assert len(output.err.splitlines()) == len(bad) and all(str(path) in output.err for path in bad)


def test_nothing_usable_and_contradictions_are_errors(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", np.zeros(40), RATE)
    with pytest.raises(UserError, match="no file could be transcribed"):
        transcribe("--model", folder, tmp_path / "short.wav", tmp_path / "missing.wav")
    assert "too short" in capsys.readouterr().err
    with pytest.raises(UserError, match="nothing to transcribe"):
        transcribe("--model", folder)
    with pytest.raises(UserError, match="--int8"):
        transcribe("--model", folder, folder / "a.wav", "--int8")
    with pytest.raises(UserError, match="--threads is 0"):
        transcribe("--model", folder, folder / "a.wav", "--threads", 0)
    with pytest.raises(UserError, match="decode.beam is 0"):
        transcribe("--model", folder, folder / "a.wav", "--beam", 0)
    with pytest.raises(UserError, match="--rate 8000 is the rate of the microphone .* files tell their own"):
        transcribe("--model", folder, folder / "a.wav", "--rate", 8000)
    with pytest.raises(UserError, match="device cuda: an exported folder runs on the CPU"):
        transcribe("--model", folder, folder / "a.wav", "--device", "cuda")
    for option in ("--int8", "--lean"):
        with pytest.raises(UserError, match="needs an exported folder"):
            transcribe("--model", tmp_path, folder / "a.wav", option)


def test_part_of_an_exported_folder_is_not_taken_for_a_training(folder, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    (part / "encoder.onnx").write_bytes((folder / "encoder.onnx").read_bytes())
    for model in (part, folder / "model.json", folder / "encoder.onnx"):
        with pytest.raises(UserError, match="is no exported folder: give the whole folder .* with its model.json"):
            transcribe("--model", model, folder / "a.wav")


def test_when_nobody_reads_the_output_no_more_files_are_transcribed(folder, monkeypatch, capsys):
    class Closed:
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self): ...

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        transcribe("--model", folder, folder / "a.wav", folder / "b.flac")
    assert capsys.readouterr().err == ""


def test_ctrl_c_does_not_end_a_file_early(folder, capsys, monkeypatch):
    def interrupted(path, channel):
        yield SPEECH[:16000], RATE
        raise KeyboardInterrupt

    monkeypatch.setattr("residualformer.library.sound.file_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transcribe("--model", folder, folder / "a.wav", folder / "b.flac")
    assert printed(capsys) == []


def test_ctrl_c_ends_live_audio_and_what_was_said_is_told(folder, capsys, monkeypatch):
    def until_interrupted(rate):
        for start in range(0, len(SPEECH), 1600):
            yield SPEECH[start : start + 1600], rate
        raise KeyboardInterrupt

    monkeypatch.setattr("residualformer.runtime.audio.microphone_blocks", until_interrupted)
    transcribe("--model", folder, "--mic")
    assert [line[-1] for line in printed(capsys)] == ["a b a"]


def test_ctrl_c_while_a_block_is_decoded_loses_nothing_that_was_said(folder, capsys, monkeypatch):
    decode, handler, blocks = Recognizer.decode, signal.getsignal(signal.SIGINT), -(-len(SPEECH) // 1600)
    calls = []

    def interrupted(recognizer, streams):
        calls.append(1)
        if len(calls) == blocks:
            signal.raise_signal(signal.SIGINT)
        decode(recognizer, streams)

    def endless(rate):
        yield from ((SPEECH[number * 1600 :][:1600], rate) for number in range(blocks))
        raise AssertionError("heard on after Ctrl-C")

    monkeypatch.setattr("residualformer.runtime.audio.microphone_blocks", endless)
    monkeypatch.setattr(Recognizer, "decode", interrupted)
    transcribe("--model", folder, "--mic")
    assert [line[-1] for line in printed(capsys)] == ["a b a"]
    assert signal.getsignal(signal.SIGINT) is handler
