"""AN4 on a copy of its layout with a few short recordings, and the texts of its synthetic companion."""

from __future__ import annotations

import re
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from lhotse import CutSet
from support.audio import write_wav

from local import an4
from residualformer.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    """Ten training speakers of two utterances, one test speaker of one."""
    folder = tmp_path / "corpus"
    train = []
    for number in range(10):
        speaker = f"{'fm'[number % 2]}abc{number}"
        for name, text in ((f"an{number}-{speaker}-b", "YES"), (f"cen{number}-{speaker}-b", "G A ONE")):
            write_wav(folder / "wav/an4_clstk" / speaker / f"{name}.wav")
            train.append(f"<s> {text} </s> ({name})\n")
    write_wav(folder / "wav/an4test_clstk/fxyz/an99-fxyz-b.wav")
    (folder / "etc").mkdir()
    (folder / "etc/an4_train.transcription").write_text("".join(train))
    (folder / "etc/an4_test.transcription").write_text("RUBOUT T M (an99-fxyz-b)\n")
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["an4.py", *map(str, arguments)])
    an4.main()


def read(folder):
    return {split: list(CutSet.from_file(folder / f"cuts_{split}.jsonl.gz")) for split in ("train", "dev", "test")}


def test_manifests(corpus, tmp_path, monkeypatch):
    run(monkeypatch, "obtain", "--corpus-dir", corpus, "--out", tmp_path / "raw")
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m")
    cuts = read(tmp_path / "m")
    assert {split: len(value) for split, value in cuts.items()} == {"train": 18, "dev": 2, "test": 1}
    speakers = {split: {cut.supervisions[0].speaker for cut in value} for split, value in cuts.items()}
    assert speakers["dev"] == {"fabc8"}  # the fifth by name of fabc0 fabc2 fabc4 fabc6 fabc8 mabc1 ...
    assert not speakers["dev"] & speakers["train"]
    assert {cut.supervisions[0].text for cut in cuts["train"]} == {"YES", "G A ONE"}
    assert cuts["test"][0].supervisions[0].text == "RUBOUT T M"
    assert cuts["test"][0].id == "an99-fxyz-b"


def test_dev_has_eight_speakers_of_the_74_and_both_sexes():
    names = [f"f{i:02d}" for i in range(21)] + [f"m{i:02d}" for i in range(53)]
    dev = an4.dev_speakers([an4.CorpusUtterance("x", None, "", name) for name in reversed(names)])
    assert len(dev) == 8 and {name[0] for name in dev} == {"f", "m"}


def test_what_does_not_match_is_skipped_and_named(corpus, tmp_path, monkeypatch, capsys):
    (corpus / "wav/an4_clstk/fabc0/an0-fabc0-b.wav").unlink()
    write_wav(corpus / "wav/an4_clstk/fabc0/an77-fabc0-b.wav")
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--corpus-dir", corpus, "--out", tmp_path / "m")
    captured = capsys.readouterr()
    assert "an0-fabc0-b: there is a transcript but no audio" in captured.err
    assert "an77-fabc0-b: there is audio but no transcript" in captured.err
    assert "train: 17 utterances" in captured.out and "2 skipped" in captured.out


@pytest.mark.parametrize("missing", ["etc/an4_train.transcription", "wav/an4test_clstk"])
def test_a_wrong_layout_is_named(corpus, tmp_path, monkeypatch, missing):
    (corpus / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=missing):
        run(monkeypatch, "obtain", "--corpus-dir", corpus, "--out", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_missing_stage_and_a_bad_transcript_line_are_named(corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="run stage 0 first"):
        run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m")
    (corpus / "etc/an4_test.transcription").write_text("RUBOUT T M\n")
    with pytest.raises(UserError, match="an4_test.transcription, line 1 is 'RUBOUT T M'"):
        an4.read_split(corpus, "test")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_transcripts_that_are_not_utf8_are_named(corpus, encoding):
    (corpus / "etc/an4_test.transcription").write_text("CAFÉ (an99-fxyz-b)\n", encoding=encoding)
    with pytest.raises(UserError, match="an4_test.transcription is not text .*: repair or fetch it"):
        an4.read_split(corpus, "test")


def test_a_byte_order_mark_is_no_text(corpus):
    (corpus / "etc/an4_test.transcription").write_text("<s> YES </s> (an99-fxyz-b)\r\n", encoding="utf-8-sig")
    assert [utterance.text for utterance in an4.read_split(corpus, "test")[0]] == ["YES"]


def test_clone_that_fails_ends_in_advice_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(an4, "REPOSITORY", str(tmp_path / "no-such-repository"))
    with pytest.raises(UserError, match="could not be fetched.*--corpus-dir"):
        an4.clone(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is needed"):
        an4.clone(tmp_path / "raw")


def test_clone(corpus, tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(corpus)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "corpus"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(an4, "REPOSITORY", corpus.as_uri())
    run(monkeypatch, "obtain", "--out", tmp_path / "raw")
    assert an4.corpus_folder(Namespace(corpus_dir=None, corpus=tmp_path / "raw")).name == "an4"
    an4.check_layout(tmp_path / "raw/an4")


def test_rejoined_texts_are_a_beginning_and_an_end():
    rng = np.random.default_rng(0)
    texts = ["A B C D", "ONE TWO THREE"]
    cuts = {" ".join(words[:i]) for words in map(str.split, texts) for i in range(len(words) + 1)}
    ends = {" ".join(words[i:]) for words in map(str.split, texts) for i in range(len(words))}
    possible = {f"{first} {last}".strip() for first in cuts for last in ends}
    drawn = {an4.rejoin(texts, rng) for _ in range(1000)}
    assert drawn <= possible and len(drawn) > len(possible) / 2


def test_synthetic_lines():
    lines = an4.synthetic_lines(["YES", "Z A", "ENTER FIVE"], 400, seed=1)
    assert lines == an4.synthetic_lines(["YES", "Z A", "ENTER FIVE"], 400, seed=1)
    assert lines != an4.synthetic_lines(["YES", "Z A", "ENTER FIVE"], 400, seed=2)
    assert all(line.id.startswith("syn-") and re.fullmatch(r"[A-Z]+( [A-Z]+)*", line.text) for line in lines)
    assert len({line.speaker.voice for line in lines}) > 100
    assert not any(re.search(r"(^| )[a-z]( |$)", line.spoken) for line in lines)  # every letter is marked
    assert all(("zee" in line.spoken) == ("Z" in line.text.split()) for line in lines)


def test_synthetic_speech_joins_train_on_request(corpus, tmp_path, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "m"
    with pytest.raises(UserError, match="--synthetic N first"):
        run(monkeypatch, "manifests", "--corpus", raw, "--corpus-dir", corpus, "--out", out, "--synthetic", 3)
    run(monkeypatch, "obtain", "--corpus-dir", corpus, "--out", raw, "--synthetic", 3, "--jobs", 1)
    before = {path: path.stat().st_mtime_ns for path in (raw / "synthetic").iterdir()}
    run(monkeypatch, "obtain", "--corpus-dir", corpus, "--out", raw, "--synthetic", 3, "--jobs", 1)
    assert before == {path: path.stat().st_mtime_ns for path in (raw / "synthetic").iterdir()} and len(before) == 3
    run(monkeypatch, "manifests", "--corpus", raw, "--out", out, "--synthetic", 3)
    assert sum(cut.id.startswith("syn-") for cut in read(out)["train"]) == 3
    run(monkeypatch, "manifests", "--corpus", raw, "--out", out)
    assert not any(cut.id.startswith("syn-") for cut in read(out)["train"])
