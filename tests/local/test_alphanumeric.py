"""The alphanumeric audio dataset on a copy of its layout: letters and digits as texts, and what is left out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from local import alphanumeric
from local.alphanumeric import OTHER, counted, read_recordings, spelled
from residualformer.errors import UserError

PEOPLE = {  # id: name, number, seconds of the recorded name
    "R_1": ("Arjun Rao", "1209", 5.0),
    "R_2": ("Mehak", "813546798", 1.9),  # said, not spelled
    "R_3": ("Zoë", "12 34", 3.0),
    OTHER[0]: ("Eva", "77", 3.0),
}


@pytest.fixture
def folder(tmp_path):
    rows = ["Response_ID,file_name,Age,Name,Number,Address"]
    for kind in ("Names", "Addresses", "Numbers"):
        (tmp_path / "audio_data" / kind).mkdir(parents=True)
        for person, (name, number, seconds) in PEOPLE.items():
            path = f"audio_data/{kind}/{person}.wav"
            rows.append(f'{person},{path},24,{name},{number},"7204, Queen Drive"')
            noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(8000 * seconds))
            soundfile.write(tmp_path / path, noise, 8000)
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_texts_are_letters_and_words_of_digits(folder):
    found, left_out = read_recordings(folder)
    assert {(each.id, each.text, each.speaker) for each in found} == {
        ("alphanumeric-Names-R_1", "A R J U N R A O", "alphanumeric-R_1"),
        ("alphanumeric-Numbers-R_1", "ONE TWO ZERO NINE", "alphanumeric-R_1"),
        ("alphanumeric-Numbers-R_2", "ZERO EIGHT ONE THREE FIVE FOUR SIX SEVEN NINE EIGHT", "alphanumeric-R_2"),
    }
    assert all(each.audio and each.audio.is_file() for each in found)
    assert "alphanumeric-Names-R_2: 5 letters in 1.9 s, so the name was not spelled" in left_out
    unknown = {line.split(":")[0] for line in left_out if line.endswith("what was said is not known")}
    others = {f"alphanumeric-{kind}-{person}" for kind in ("Names", "Numbers") for person in ("R_3", OTHER[0])}
    assert unknown == others | {f"alphanumeric-Addresses-{person}" for person in PEOPLE}


def test_letters_and_digits():
    assert (spelled("Jo  Li "), spelled(""), spelled("O'Hara")) == ("J O L I", "", "")
    assert (counted("43126798")[:10], counted("7"), counted("1x"), counted("²2")) == ("FOUR THREE", "", "", "")


def test_both_stages_split_by_speaker(folder, tmp_path, monkeypatch):
    rows = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    more = [row.replace("R_1", f"R_1{number}", 1) for row in rows if "R_1.wav" in row for number in range(12)]
    (folder / "metadata.csv").write_text("\n".join(rows + more), encoding="utf-8")
    for words in (
        ["obtain", "--out", tmp_path / "raw", "--corpus-dir", folder],
        ["manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m"],
    ):
        monkeypatch.setattr(sys, "argv", ["alphanumeric.py", *map(str, words)])
        alphanumeric.main()
    cuts = {name: CutSet.from_file(tmp_path / "m" / f"cuts_{name}.jsonl.gz") for name in ("train", "dev", "test")}
    speakers = [{cut.supervisions[0].speaker for cut in each} for each in cuts.values()]
    assert all(speakers) and len(set.union(*speakers)) == sum(map(len, speakers)) == 14


def test_what_is_missing_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alphanumeric.py", "obtain", "--out", str(tmp_path / "raw")])
    with pytest.raises(UserError, match=r"--corpus-dir is missing: clone https://github.com/Sakshee5/"):
        alphanumeric.main()
    (folder / "metadata.csv").write_text("Response_ID,file_name,Name\n")
    with pytest.raises(UserError, match="lacks the column Number"):
        read_recordings(folder)
    with pytest.raises(UserError, match=r"lacks .*metadata.csv': clone"):
        alphanumeric.check_layout(tmp_path / "audio_data")
