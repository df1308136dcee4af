"""Common Voice on a copy of its layout, compared with what Lhotse's recipe reads."""

from __future__ import annotations

import sys

import pytest
from lhotse import CutSet
from lhotse.recipes.commonvoice import _parse_utterance
from support.corpora import CLIPS, write_common_voice

from local import common_voice
from local.common_voice import read_sentences
from residualformer.errors import UserError

ROWS = [("a" * 128, "common_voice_en_1.mp3", 'She said "no'), ("b" * 128, "common_voice_en_2.mp3", " Good morning. ")]


@pytest.fixture
def folder(tmp_path):
    return write_common_voice(tmp_path / "en", {"validated": ROWS})


def both_stages(monkeypatch, out, *options) -> dict[str, list]:
    for command in (["obtain", "--out", out / "raw"], ["manifests", "--corpus", out / "raw", "--out", out / "m"]):
        monkeypatch.setattr(sys, "argv", ["common_voice.py", *map(str, [*command, *options])])
        common_voice.main()
    return {path.name[5:-9]: list(CutSet.from_file(path)) for path in (out / "m").iterdir()}


def test_sentences_are_those_of_lhotses_recipe(folder):
    columns = CLIPS.split("\t")
    rows = [line.split("\t") for line in (folder / "validated.tsv").read_text().splitlines()[1:]]
    theirs = [_parse_utterance(folder, "en", dict(zip(columns, row, strict=True))) for row in rows]
    found = read_sentences(folder)
    assert [(each.id, str(each.audio), each.text) for each in found] == [
        (f"cv-{recording.id}", recording.sources[0].source, supervision.text) for recording, supervision in theirs
    ]
    assert [each.speaker for each in found] == [f"cv-{'a' * 16}", f"cv-{'b' * 16}"]


def test_sentences_without_audio_are_counted(folder, capsys):
    (folder / "clips" / "common_voice_en_1.mp3").unlink()
    assert [each.id for each in read_sentences(folder)] == ["cv-common_voice_en_2"]
    assert "1 of 2 sentences of validated.tsv have no audio in clips/" in capsys.readouterr().out


def test_splits_are_the_releases_own(tmp_path, monkeypatch):
    sentences = {"train": "Grüß Gott, Ann’s Haus!", "dev": "Der Fluss.", "test": "«Ça va?»"}
    tables = {name: [(name * 30, f"{name}.mp3", text)] for name, text in sentences.items()}
    tables["train"].append(("x" * 128, "numbers.mp3", "Um 5 Uhr."))
    folder = write_common_voice(tmp_path / "de", {**tables, "validated": []})
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", folder)
    told = {name: [(cut.id, cut.supervisions[0].text) for cut in found] for name, found in cuts.items()}
    assert told == {
        "train": [("cv-train", "GRÜSS GOTT ANN'S HAUS")],
        "dev": [("cv-dev", "DER FLUSS")],
        "test": [("cv-test", "ÇA VA")],
    }


def test_splits_of_the_validated_sentences_share_no_speaker(tmp_path, monkeypatch):
    rows = [(f"{n % 12:016d}", f"common_voice_en_{n}.mp3", "Hello.") for n in range(24)]
    folder = write_common_voice(tmp_path / "en", {"validated": rows, "train": rows[:1], "test": rows[1:2]})
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", folder)
    speakers = {name: {cut.supervisions[0].speaker for cut in found} for name, found in cuts.items()}
    assert {name: len(each) for name, each in speakers.items()} == {"train": 8, "dev": 2, "test": 2}
    assert len(set.union(*speakers.values())) == 12 and sum(len(found) for found in cuts.values()) == 24


@pytest.mark.parametrize("missing", ["validated.tsv", "clips"])
def test_a_missing_part_is_named(folder, tmp_path, monkeypatch, missing):
    (folder / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=f"Common Voice in '.*' lacks '.*{missing}': get a release .*commonvoice.mozilla"
    ):
        both_stages(monkeypatch, tmp_path, "--corpus-dir", folder)
    with pytest.raises(UserError, match="--corpus-dir is missing, as a program cannot download Common Voice"):
        both_stages(monkeypatch, tmp_path)


def test_a_table_without_its_columns_is_named(folder):
    (folder / "validated.tsv").write_text("client_id\tpath\nme\tcommon_voice_en_1.mp3\n")
    with pytest.raises(UserError, match="validated.tsv has no column 'sentence'"):
        read_sentences(folder)
