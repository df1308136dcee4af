"""English from several corpora, on small copies of their layouts."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from lhotse import CutSet
from support.archives import serve
from support.corpora import write_common_voice, write_librispeech_part, write_speechocean

from local import english, librispeech
from local.common.transcripts import as_spoken
from residualformer.config.loading import load_config
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.text import ENGLISH
from residualformer.errors import UserError
from residualformer.model.checkpoint import read_model

FAKE = Path(__file__).resolve().parents[1] / "support" / "fake_recognizer.py"
SENTENCES = ["Good morning, Ann’s friend!", "It’s 5 o’clock.", "Au café.", "A well-ordered house."]


@pytest.fixture
def corpora(tmp_path) -> dict[str, Path]:
    """The folder of each corpus, by its option; ten speakers in train of each."""
    disk = tmp_path / "disk"
    for first, part in enumerate(("train-clean-5", "train-clean-other-speakers", "test-clean"), 1):
        write_librispeech_part(disk / "LibriSpeech", part, range(100 * first, 100 * first + 5))
    speakers = [f"{number:04d}" for number in range(11)]
    write_speechocean(disk / "ocean", {"train": speakers[:10], "test": speakers[10:]})
    rows = [
        (f"{speaker:016d}{'0' * 112}", f"common_voice_en_{4 * speaker + number}.mp3", sentence)
        for speaker in range(10)
        for number, sentence in enumerate(SENTENCES)
    ]
    write_common_voice(disk / "en", {"validated": rows})
    return {"--librispeech": disk / "LibriSpeech", "--speechocean": disk / "ocean", "--common-voice": disk / "en"}


def words(given: dict[str, object]) -> list[str]:
    return [str(word) for option in given.items() for word in option]


def both_stages(monkeypatch, out: Path, given: dict[str, object]) -> dict[str, list]:
    for command, where in (("obtain", []), ("manifests", ["--corpus", str(out / "raw")])):
        folder = out / ("m" if where else "raw")
        monkeypatch.setattr(sys, "argv", ["english.py", command, "--out", str(folder), *where, *words(given)])
        english.main()
    return {path.name[5:-9]: list(CutSet.from_file(path)) for path in (out / "m").glob("cuts_*.jsonl.gz")}


def speakers(cuts: list) -> set[str]:
    return {cut.supervisions[0].speaker for cut in cuts}


def test_train_dev_and_tests_of_three_corpora(corpora, tmp_path, monkeypatch, capsys):
    cuts = both_stages(monkeypatch, tmp_path, corpora)
    assert {name: len(found) for name, found in cuts.items() if name not in ("train", "dev")} == {
        "test-clean": 10,
        "speechocean": 2,
    }
    used = [*cuts["train"], *cuts["dev"]]
    assert {cut.id for cut in used} == {
        *(
            f"{speaker}-{speaker + 1}-000{n}"
            for first in (100, 200)
            for speaker in range(first, first + 5)
            for n in (0, 1)
        ),
        *(f"speechocean-{speaker:04d}{n}" for speaker in range(10) for n in (0, 1)),
        *(f"cv-common_voice_en_{4 * speaker + n}" for speaker in range(10) for n in (0, 3)),
    }
    assert len({cut.id for cut in used}) == len(used)
    texts = {cut.supervisions[0].text for cut in used if cut.id.startswith("cv-")}
    assert texts == {"GOOD MORNING ANN'S FRIEND", "A WELL ORDERED HOUSE"}
    assert "20 skipped" in (told := capsys.readouterr()).out and "'It’s 5 o’clock.' has more than letters" in told.err


def test_dev_are_speakers_of_each_corpus_whom_train_lacks(corpora, tmp_path, monkeypatch):
    cuts = both_stages(monkeypatch, tmp_path, corpora)
    dev, train = speakers(cuts["dev"]), speakers(cuts["train"])
    assert not dev & train and len(dev | train) == 30
    for prefix in ("1", "speechocean-", "cv-"):
        others = [each for each in dev if each.startswith(prefix) or (prefix == "1" and each.startswith("2"))]
        assert 1 <= len(others) <= 2
    without_voice = both_stages(
        monkeypatch, tmp_path / "two", {name: corpora[name] for name in ("--librispeech", "--speechocean")}
    )
    assert speakers(without_voice["dev"]) == {each for each in dev if not each.startswith("cv-")}


def test_recordings_without_text_are_labeled_in_stage_0_and_train(corpora, tmp_path, monkeypatch, capsys):
    clips, table = corpora["--common-voice"] / "clips", tmp_path / "texts.json"
    known = {path.stem for path in clips.iterdir()}
    for name in ("new1", "new2"):
        shutil.copy(next(clips.iterdir()), clips / f"{name}.mp3")
    table.write_text(json.dumps({"new1": "Hello, you.", "new2": "at 5"} | dict.fromkeys(known, "not asked")))
    command = shlex.join([sys.executable, str(FAKE), str(table), "{audio}"])
    given = corpora | {"--untranscribed": clips, "--recognizer": command}
    cuts = both_stages(monkeypatch, tmp_path, given)
    labeled = [cut for cut in cuts["train"] if cut.supervisions[0].custom and "labeled" in cut.supervisions[0].custom]
    assert [(cut.id, cut.supervisions[0].text) for cut in labeled] == [("labeled-new1", "HELLO YOU")]
    assert not any(cut.id.startswith("labeled-") for name, found in cuts.items() if name != "train" for cut in found)
    assert sorted(Path(f"{table}.calls").read_text().split()) == ["new1", "new2"]
    assert "1 of 2 recordings kept" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["english.py", "options", "--", *words(given), "--recognizer", "run"])
    english.main()
    told = json.loads(capsys.readouterr().out)
    assert [told["obtain"][i + 1] for i, word in enumerate(told["obtain"]) if word == "--recognizer"] == [
        command,
        str(Path("run").absolute()),
    ]
    assert told["inputs"] == [str(clips)] and "--untranscribed" in told["manifests"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"--recognizer": "x"}, "--recognizer and --max-wer are for --untranscribed DIR, which is missing"),
        ({"--untranscribed": "."}, "--recognizer is given 0 times"),
        ({"--untranscribed": "no", "--recognizer": "x"}, "--untranscribed .*no is not a folder"),
    ],
)
def test_options_of_labels_go_together(monkeypatch, given, told):
    monkeypatch.setattr(sys, "argv", ["english.py", "options", "--", *words(given)])
    with pytest.raises(UserError, match=told):
        english.main()


def test_what_is_not_given_is_fetched(corpora, tmp_path, monkeypatch):
    archives = tmp_path / "server"
    archives.mkdir()
    for part in ("train-clean-5", "test-clean"):
        with tarfile.open(archives / f"{part}.tar.gz", "w:gz") as tar:
            tar.add(corpora["--librispeech"] / part, f"LibriSpeech/{part}")
        checksum = hashlib.md5((archives / f"{part}.tar.gz").read_bytes()).hexdigest()
        monkeypatch.setitem(librispeech.MD5, part, checksum)
    with tarfile.open(archives / "speechocean762.tar.gz", "w:gz") as tar:
        tar.add(corpora["--speechocean"], "speechocean762")
    with serve(archives) as server:
        cuts = both_stages(monkeypatch, tmp_path, {"--url": server.url})
        asked = ["12/test-clean", "31/train-clean-5", "101/speechocean762"]
        assert server.paths == [f"/resources/{name}.tar.gz" for name in asked]
    assert set(cuts) == {"train", "dev", "test-clean", "speechocean"}
    assert len(cuts["train"]) + len(cuts["dev"]) == 10 + 20  # of one part of LibriSpeech, and of speechocean762


def test_subset_is_for_what_is_fetched(corpora, tmp_path, monkeypatch):
    given = {"--subset": 100, "--librispeech": corpora["--librispeech"]}
    monkeypatch.setattr(sys, "argv", ["english.py", "options", "--", *words(given)])
    with pytest.raises(UserError, match="--subset says what to fetch of LibriSpeech, but --librispeech gives a copy"):
        english.main()


def test_what_is_missing_is_named(corpora, tmp_path, monkeypatch):
    for part in ("train-clean-5", "train-clean-other-speakers"):
        (corpora["--librispeech"] / part).rename(tmp_path / part)
    with pytest.raises(UserError, match=r"LibriSpeech' holds no part train-\*"):
        both_stages(monkeypatch, tmp_path, corpora)
    (corpora["--librispeech"] / "test-clean").rename(tmp_path / "test-clean")
    with pytest.raises(UserError, match="lacks '.*test-clean'"):
        both_stages(monkeypatch, tmp_path, corpora)


def test_of_two_utterances_of_one_name_the_first_is_taken():
    twice = [CorpusUtterance("a", None, text, "s") for text in ("ONE", "TWO")]
    kept, strange = as_spoken(twice, ENGLISH)
    assert [each.text for each in kept] == ["ONE"] and strange == ["a: it is there twice"]


def test_the_released_model_is_the_published_one(root):
    """Its configuration is that of conf/english, but for paths and dropout; its fingerprint is in the results."""
    model = read_model(root / "egs/english/released/model.safetensors")
    published = json.loads((root / "docs/results/english_labeled/results.json").read_text(encoding="utf-8"))
    trained = next(row for row in published["rows"] if row["experiment"] == "finetune")
    assert model.info["released_from"] == trained["training"]["fingerprint"]
    config = load_config(root / "conf/english/shared.yaml")
    assert (model.config.encoder, model.config.predictor) == (config.encoder, config.predictor)
    assert model.build().tokenizer.vocab_size == config.tokens.vocab_size
