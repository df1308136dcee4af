"""LibriSpeech on copies of its layout, compared with what Lhotse's recipe reads; its download, from a server here."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from lhotse import CutSet
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, prepare_librispeech
from support.archives import serve
from support.corpora import write_librispeech_part

from local import librispeech
from local.common import corpus as corpora
from residualformer.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "disk" / "LibriSpeech"
    for first, part in enumerate((*LIBRISPEECH, *MINI_LIBRISPEECH), start=1):
        write_librispeech_part(folder, part, speakers=[100 * first, 100 * first + 50], chapters=2)
    for name in ("README.TXT", "SPEAKERS.TXT", "CHAPTERS.TXT", "BOOKS.TXT", "LICENSE.TXT"):
        (folder / name).write_text("; as in the corpus\n")
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["librispeech.py", *map(str, arguments)])
    librispeech.main()


def read(folder: Path) -> dict[str, CutSet]:
    return {path.name[5:-9]: CutSet.from_file(path) for path in folder.glob("cuts_*.jsonl.gz")}


@pytest.mark.parametrize("subset", ["100", "460", "960"])
def test_cuts_are_those_of_lhotses_recipe(corpus, tmp_path, monkeypatch, subset):
    options = ["--corpus-dir", corpus.parent, "--subset", subset]
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", *options)
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m", "--subset", subset)
    cuts, theirs = read(tmp_path / "m"), prepare_librispeech(corpus)
    train = [part for part in LIBRISPEECH if part.startswith("train") and int(part[-3:]) <= int(subset)]
    train = train if subset == "960" else train[: {"100": 1, "460": 2}[subset]]
    wanted = {"train": train, "dev": ["dev-clean", "dev-other"]}
    assert set(cuts) == {*wanted, "test-clean", "test-other"}
    for name, split in cuts.items():
        expected = {
            segment.id: (segment.text, segment.speaker, segment.language, segment.duration)
            for part in wanted.get(name, [name])
            for segment in theirs[part]["supervisions"]
        }
        found = [(cut.id, cut.supervisions[0]) for cut in split]
        assert {key: (s.text, s.speaker, s.language, s.duration) for key, s in found} == expected
        assert len(found) == len(expected) == 8 * len(wanted.get(name, [name]))


def test_mini_librispeech_is_as_lhotse_reads_it(corpus, tmp_path, monkeypatch):
    for part in LIBRISPEECH:
        if part != "test-clean":
            shutil.rmtree(corpus / part)  # none is needed
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", corpus, "--subset", "5")
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m", "--subset", "5")
    theirs = prepare_librispeech(corpus)
    parts = {"train": "train-clean-5", "dev": "dev-clean-2", "test-clean": "test-clean"}
    found = {name: {cut.id: cut.supervisions[0].text for cut in cuts} for name, cuts in read(tmp_path / "m").items()}
    assert found == {n: {s.id: s.text for s in theirs[part]["supervisions"]} for n, part in parts.items()}


def test_what_cannot_be_used_is_named(corpus, tmp_path, monkeypatch, capsys):
    chapter = corpus / "test-clean" / "300" / "301"
    (chapter / "300-301-0000.flac").unlink()
    (chapter / "300-301-0001.flac").rename(chapter / "300-301-0002.flac")
    transcript = chapter.with_name("302") / "300-302.trans.txt"
    transcript.write_text(transcript.read_text().replace(" HE DIDN'T", " "))
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", corpus)
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m", "--subset", "100")
    captured = capsys.readouterr()
    assert "test-clean: 5 utterances" in captured.out and "4 skipped" in captured.out
    for line in (
        "300-301-0000: there is a transcript but no audio",
        "300-301-0001: there is a transcript but no audio",
        "300-301-0002: there is audio but no transcript",
        "300-302-0001: its transcript is empty",
    ):
        assert f"skipped in test-clean: {line}" in captured.err


@pytest.mark.parametrize(
    "subset, missing", [("960", "train-other-500"), ("100", "train-clean-100"), ("100", "dev-other")]
)
def test_a_missing_part_is_named(corpus, tmp_path, monkeypatch, subset, missing):
    (corpus / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"LibriSpeech in '.*' lacks '.*{missing}': .*openslr.org/12"):
        run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", corpus, "--subset", subset)
    assert not (tmp_path / "raw").exists()


def test_other_layouts_and_a_missing_stage_are_named(corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="lacks '.*nowhere'"):
        run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", tmp_path / "nowhere")
    with pytest.raises(UserError, match="corpus.json is missing: run stage 0 first"):
        run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m")
    for transcript in (corpus / "dev-other").rglob("*.trans.txt"):
        transcript.unlink()
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", corpus)
    with pytest.raises(UserError, match=r"dev-other' holds no \*/\*/\*.trans.txt"):
        run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m")


@pytest.fixture
def server(corpus, tmp_path, monkeypatch):
    """OpenSLR as it were, here: an archive for each part, and their MD5 in place of the true ones."""
    folder = tmp_path / "server"
    folder.mkdir()
    for part in (*LIBRISPEECH, *MINI_LIBRISPEECH):
        with tarfile.open(folder / f"{part}.tar.gz", "w:gz") as tar:
            tar.add(corpus / "README.TXT", "LibriSpeech/README.TXT")
            tar.add(corpus / part, f"LibriSpeech/{part}")
        monkeypatch.setitem(librispeech.MD5, part, md5(folder / f"{part}.tar.gz"))
    with serve(folder) as handler:
        yield handler


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def content(folder: Path) -> dict[Path, str]:
    return {path.relative_to(folder): md5(path) for path in folder.rglob("*.*")}


def test_parts_are_fetched_checked_and_unpacked_once(server, corpus, tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    whole = (server.folder / "dev-other.tar.gz").read_bytes()
    (raw / "dev-other.tar.gz.part").write_bytes(whole[:100])  # what an interrupted download has left
    (raw / "test-clean.tar.gz.part").write_bytes((server.folder / "test-clean.tar.gz").read_bytes())
    (raw / "test-other.tar.gz").write_bytes((server.folder / "test-other.tar.gz").read_bytes())  # put there by hand
    run(monkeypatch, "obtain", "--out", raw, "--subset", "100", "--url", server.url)
    small = ["dev-clean", "dev-other", "test-clean", "test-other", "train-clean-100"]
    assert [name for name, _ in server.asked] == [f"{part}.tar.gz" for part in small if part != "test-other"]
    assert server.asked[1] == ("dev-other.tar.gz", 100)
    assert sorted(path.name for path in raw.iterdir()) == ["LibriSpeech", "corpus.json"]
    for part in small:
        here, there = content(raw / "LibriSpeech" / part), content(corpus / part)
        assert here == there and len(here) == 12
    run(monkeypatch, "obtain", "--out", raw, "--subset", "100", "--url", server.url)
    assert len(server.asked) == 4
    run(monkeypatch, "manifests", "--corpus", raw, "--out", tmp_path / "m", "--subset", "100")
    assert len(list(read(tmp_path / "m")["train"])) == 8


def test_parts_of_both_resources_are_fetched(server, corpus, tmp_path, monkeypatch):
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--subset", "5", "--url", server.url)
    assert server.paths == [
        f"/resources/{where}.tar.gz" for where in ("31/dev-clean-2", "12/test-clean", "31/train-clean-5")
    ]


def test_a_damaged_download_is_refused_and_removed(server, tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    archive = server.folder / "dev-clean.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match="dev-clean.tar.gz had the MD5 checksum .*, not .*, and was removed: run it again"
    ):
        run(monkeypatch, "obtain", "--out", raw, "--url", server.url)
    assert [path.name for path in raw.rglob("*")] == ["LibriSpeech"]
    archive.write_bytes(archive.read_bytes()[:2000])
    monkeypatch.setitem(librispeech.MD5, "dev-clean", md5(archive))
    with pytest.raises(UserError, match="dev-clean.tar.gz is damaged .* and was removed: run it again"):
        run(monkeypatch, "obtain", "--out", raw, "--url", server.url)
    assert [path.name for path in raw.rglob("*")] == ["LibriSpeech"]


@pytest.mark.parametrize(
    ("attack", "reason"), [("..", "outside the destination"), ("link", "a link to an absolute path")]
)
def test_an_archive_writes_nothing_outside_its_folder(attack, reason, tmp_path):
    archive, outside = tmp_path / "raw" / "a.tar.gz", tmp_path / "outside"
    for folder in (archive.parent, outside):
        folder.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        if attack == "link":
            link = tarfile.TarInfo("part")
            link.type, link.linkname = tarfile.SYMTYPE, str(outside)
            tar.addfile(link)
        tar.addfile(tarfile.TarInfo("part/file" if attack == "link" else "../../outside/file"))
    with pytest.raises(UserError, match=f"a.tar.gz is damaged .*{reason}.* and was removed: run it again"):
        corpora.unpack(archive, "part", archive.with_name("part"))
    assert list(outside.iterdir()) == [] and list(archive.parent.iterdir()) == []


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_connection_is_not_the_end(server, tmp_path, knows_ranges):
    url, whole = f"{server.url}/dev-clean.tar.gz", (server.folder / "dev-clean.tar.gz").read_bytes()
    server.knows_ranges, server.breaks_after = knows_ranges, len(whole) // 3
    if not knows_ranges:
        with pytest.raises(UserError, match=f"the connection broke after .* of {len(whole)} bytes.: run it again"):
            corpora.fetch(url, tmp_path / "raw")
        server.breaks_after = None
    assert corpora.fetch(url, tmp_path / "raw").read_bytes() == whole
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["dev-clean.tar.gz"]


def test_a_server_that_fails_ends_in_advice(server, tmp_path):
    with pytest.raises(
        UserError, match="nothing.tar.gz could not be downloaded .*404.*: run it again to resume, or put"
    ):
        corpora.fetch(f"{server.url}/nothing.tar.gz", tmp_path / "raw")
    for address in ("http://127.0.0.1:9", "a-word"):
        with pytest.raises(UserError, match="could not be downloaded"):
            corpora.fetch(f"{address}/a.tar.gz", tmp_path / "raw")
