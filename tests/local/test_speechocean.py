"""speechocean762 on a copy of its layout."""

from __future__ import annotations

import sys
import tarfile

import pytest
from lhotse import CutSet
from support.archives import serve
from support.corpora import write_speechocean

from local import speechocean
from local.speechocean import read_split
from residualformer.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_speechocean(tmp_path / "speechocean762", {"train": ["0001", "0005"], "test": ["0003"]})


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["speechocean.py", *map(str, arguments)])
    speechocean.main()


def both_stages(monkeypatch, out, *options) -> dict[str, set[str]]:
    """The speakers of each split."""
    run(monkeypatch, "obtain", "--out", out / "raw", *options)
    given = options if "--corpus-dir" in options else ()
    run(monkeypatch, "manifests", "--corpus", out / "raw", "--out", out / "m", *given)
    splits = {path.name[5:-9]: CutSet.from_file(path) for path in (out / "m").iterdir()}
    return {name: {cut.supervisions[0].speaker for cut in cuts} for name, cuts in splits.items()}


def test_dev_are_speakers_held_out_of_train_given_or_fetched(tmp_path, monkeypatch, capsys):
    names = [f"{number:04d}" for number in range(12)]
    folder = write_speechocean(tmp_path / "disk" / "speechocean762", {"train": names[:10], "test": names[10:]})
    given = both_stages(monkeypatch, tmp_path / "given", "--corpus-dir", folder.parent)
    assert given["test"] == {f"speechocean-{name}" for name in names[10:]}
    assert len(given["dev"]) == 1 and len(given["train"]) == 9 and not given["dev"] & given["train"]
    (tmp_path / "server").mkdir()
    with tarfile.open(tmp_path / "server" / "speechocean762.tar.gz", "w:gz") as tar:
        tar.add(folder, "speechocean762")
    with serve(tmp_path / "server") as server:
        capsys.readouterr()
        assert both_stages(monkeypatch, tmp_path / "fetched", "--url", server.url) == given
        assert server.paths == ["/resources/101/speechocean762.tar.gz"]
        assert "no checksum of http" in capsys.readouterr().out
        run(monkeypatch, "obtain", "--out", tmp_path / "fetched" / "raw", "--url", server.url)
        assert len(server.paths) == 1


def test_each_utterance_has_its_text_speaker_and_audio(folder):
    found = {each.id: (each.text, each.speaker, each.audio) for each in read_split(folder, "train")}
    assert found == {
        f"speechocean-{speaker}{number}": (
            "KATE LOVES CHINA",
            f"speechocean-{speaker}",
            folder / "WAVE" / f"SPEAKER{speaker}" / f"{speaker}{number}.WAV",
        )
        for speaker in ("0001", "0005")
        for number in range(2)
    }
    assert [each.id for each in read_split(folder, "test")] == ["speechocean-00030", "speechocean-00031"]
    assert all(each.audio.is_file() for split in ("train", "test") for each in read_split(folder, split))


@pytest.mark.parametrize("missing", ["WAVE", "test/text"])
def test_a_missing_part_is_named(folder, tmp_path, monkeypatch, missing):
    (folder / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"speechocean762 in '.*' lacks '.*{missing}': get https://www.openslr.org/101"):
        both_stages(monkeypatch, tmp_path, "--corpus-dir", folder)


def test_a_damaged_table_is_named(folder):
    (folder / "test" / "utt2spk").write_text("00030 0003\n00031\n")
    with pytest.raises(UserError, match="utt2spk, line 2 is '00031'; it must be a name and what belongs to it"):
        read_split(folder, "test")
