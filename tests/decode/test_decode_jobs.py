"""Decoding split over processes and jobs gives the same hyp.jsonl, to the byte, as one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.commands import decode_step
from support.decoding import FRAMES

SMALL = ["--set", "decode.max_batch_s=0.7"]  # a batch for each utterance but the last two


@pytest.fixture
def decode(setup, monkeypatch, tmp_path):
    """Decode into a folder of tmp_path with more options; return the bytes of hyp.jsonl, if it was written."""

    def run(name: str, *options: object) -> bytes | None:
        decode_step(monkeypatch, setup[0], "--cuts", setup[1], *SMALL, "--out", tmp_path / name, *options)
        file = tmp_path / name / "hyp.jsonl"
        return file.read_bytes() if file.exists() else None

    return run


@pytest.fixture
def arrays(setup) -> Path:
    return setup[1].parent / "arrays"


def test_processes_do_not_change_the_result(decode, tmp_path):
    found = {jobs: decode(f"{jobs}", "--jobs", jobs, "--set", "decode.beam=3") for jobs in (1, 2, 3)}
    assert [json.loads(line)["id"] for line in found[1].splitlines()] == list(FRAMES)
    assert found[1] == found[2] == found[3]
    summary = json.loads((tmp_path / "3/decode.json").read_text())
    assert summary["jobs"] == 3 and summary["rtf"] > 0
    assert sorted(path.name for path in (tmp_path / "3").iterdir()) == ["decode.json", "hyp.ctm", "hyp.jsonl"]


def test_jobs_share_a_set_and_the_command_without_job_merges_it(decode, arrays, tmp_path, capsys):
    whole = decode("whole")
    assert decode("jobs", "--job", "2/2") is None and decode("jobs", "--job", "1/2") is None
    assert "job 1/2 has decoded 2 batches" in capsys.readouterr().out
    shutil.rmtree(arrays)  # so that nothing can be decoded again
    assert decode("jobs") == whole
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["decode.json", "hyp.ctm", "hyp.jsonl"]


def test_an_interrupted_command_goes_on(decode, arrays):
    whole = decode("whole")
    decode("out", "--job", "1/3")
    for array in arrays.rglob("u1*.npy"):  # the longest, decoded first
        array.unlink()
    assert decode("out") == whole


def test_what_was_decoded_otherwise_is_not_taken(decode, arrays):
    whole = decode("whole")
    decode("out", "--job", "1/1", "--set", "decode.beam=2")
    assert decode("out") == whole


def test_utterances_that_cannot_be_read_are_named_whatever_the_processes(decode, arrays, tmp_path, capsys):
    for array in arrays.rglob("u2*.npy"):
        array.unlink()
    greedy = ["--set", "decode.kind=greedy"]
    assert decode("1", *greedy) == decode("2", *greedy, "--jobs", 2)
    assert capsys.readouterr().err.count("skipped u2, its features cannot be read") == 2
    skipped = [json.loads((tmp_path / name / "decode.json").read_text())["skipped"] for name in ("1", "2")]
    assert skipped[0] == skipped[1] and [each["id"] for each in skipped[0]] == ["u2"]
