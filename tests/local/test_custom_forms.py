"""Data as others write them: stereo calls, NeMo, LJSpeech, Windows paths; odd files beside good ones."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile
from custom_data import FRENCH, kaldi, pairs, table, utterances, write_audio

from local.custom_data.layouts import read_data, recognize_layout
from residualformer.data.audio import read_audio
from residualformer.errors import UserError
from residualformer.workflow.inputs import content

RATE = 16000


def test_the_sides_of_a_call_are_two_utterances(tmp_path, run):
    folder = tmp_path / "data"
    rows = ["path\tchannel\tspeaker\ttext"]
    for number in range(6):
        write_audio(folder / f"call{number}.wav", str(number), channels=2)
        rows += [f"call{number}.wav\t{side}\ts{number}-{side}\t{FRENCH[side]}" for side in (0, 1)]
    (folder / "calls.tsv").write_text("\n".join([*rows, f"call0.wav\t2\tx\t{FRENCH[0]}", "call1.wav\tleft\tx\tx"]))
    printed = run(folder)
    cuts = {cut.id: cut for cut in run.all()}
    assert set(cuts) == {f"call{n}-channel{side}" for n in range(6) for side in (0, 1)}
    assert "averaged" not in printed
    for side in (0, 1):
        cut = cuts[f"call3-channel{side}"]
        assert (cut.channel, cut.supervisions[0].text) == (side, FRENCH[side])
        alone = read_audio(folder / "call3.wav", RATE, channel=side)
        np.testing.assert_array_equal(cut.load_audio(), alone[None])
    reason, detail = run.dropped["call0-channel2"]
    assert reason == "unreadable audio" and detail.startswith("it is on channel 2, but ") and "has 2, from 0" in detail
    assert run.dropped["call1"][1].endswith("row 15: channel is 'left', not a number from 0")


def test_nemos_manifests(tmp_path, run):
    folder = tmp_path / "data"
    write_audio(folder / "long.wav", "long", seconds=13.0)
    for split, numbers in {"train": range(0, 8), "dev": range(8, 10), "test": range(10, 12)}.items():
        rows = [
            {"audio_filepath": "long.wav", "offset": float(n), "duration": 0.75, "text": FRENCH[n % 4]} for n in numbers
        ]
        (folder / f"{split}_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert "layout table, 12 utterances; train 8, dev 2, test 2" in run(folder)
    assert {(cut.start, cut.duration) for cut in run.all()} == {(float(n), 0.75) for n in range(12)}
    assert {cut.supervisions[0].text for cut in run.cuts["dev"]} == {FRENCH[0], FRENCH[1]}
    (folder / "train_manifest.json").write_text('{"audio_filepath": "long.wav", "text": "x"}\n{"audio')
    with pytest.raises(UserError, match="train_manifest.json, line 2 is no JSON"):
        read_data(folder / "train_manifest.json", "table")


def test_ljspeech(tmp_path):
    for number in range(2):
        write_audio(tmp_path / f"wavs/LJ001-000{number}.wav", str(number))
    lines = ['LJ001-0000|Room 7, "half|Room seven, "half', "LJ001-0001|Two|", "LJ001-0002|a|b|c"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    assert recognize_layout(tmp_path) == "table"
    data = read_data(tmp_path, "table")
    found = [(entry.utterance.id, entry.utterance.text, entry.utterance.audio) for entry in data.entries]
    assert found == [
        ("LJ001-0000", 'Room seven, "half', tmp_path / "wavs/LJ001-0000.wav"),
        ("LJ001-0001", "Two", tmp_path / "wavs/LJ001-0001.wav"),
    ]
    ((name, detail),) = [(each.id, each.detail) for each in data.dropped]
    assert name == "LJ001-0002" and detail.endswith("row 3: it has more cells than there are columns")


@pytest.mark.parametrize("start", ["", "clips\\", "C:\\Users\\me\\data\\clips\\"])
def test_windows_separators(tmp_path, run, start):
    folder = table(tmp_path / "data", utterances())
    lines = (folder / "all.tsv").read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines]
    changed = [[a, path if path == "path" else start + path, *rest] for a, path, *rest in cells]
    (folder / "all.tsv").write_text("\n".join("\t".join(row) for row in changed), encoding="utf-8")
    run(folder)
    assert len(run.all()) == 12 and run.dropped == {}


def test_when_nothing_can_be_used_an_example_tells_why(tmp_path, run):
    folder = table(tmp_path / "data", utterances())
    for path in (folder / "clips").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"12 missing audio. The first, s0-u0: missing audio, .*s0-u0.flac is missing"):
        run(folder)
    dropped = (run.folder / "manifests" / "dropped.tsv").read_text().splitlines()
    assert len(dropped) == 13 and "s0-u0.flac is missing" in dropped[1]


def test_kaldi_segments_up_to_the_end(tmp_path):
    folder = kaldi(tmp_path / "data", utterances(speakers=1, each=2))
    (folder / "segments").write_text("s0-u0 s0-u0 0.25 -1\ns0-u1 s0-u1 0.5 0.75\n")
    found = [(e.utterance.start, e.utterance.duration) for e in read_data(folder, "kaldi").entries]
    assert found == [(0.25, None), (0.5, 0.25)]


def test_odd_files_beside_good_ones_are_named_and_left_out(tmp_path, run):
    folder = pairs(tmp_path / "data", utterances())
    (folder / "s0/x.raw").write_bytes(b"x\n")
    (folder / "s0/x.txt").write_text("ici")
    odd = os.fsencode(folder) + b"/s1/caf\xe9"
    with open(odd + b".wav", "wb") as file:
        soundfile.write(file, np.zeros(RATE), RATE, format="WAV")
    with open(odd + b".txt", "wb") as file:
        file.write(b"ici")
    with open(os.fsencode(folder) + b"/notes\xff.bin", "wb") as file:  # merely beside
        file.write(b"no data")
    run(folder)
    assert len(run.all()) == 12
    assert run.dropped["s0/x"][0] == "unreadable audio" and "raw audio without a header" in run.dropped["s0/x"][1]
    reason, detail = run.dropped["s1/caf\\udce9"]
    assert reason == "file name that is not UTF-8" and "rename it" in detail
    assert len(content(folder)) == 12
