"""CoVoST 2 and MSLT on copies of their layouts with short recordings."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from local import covost
from local.covost_corpus import mslt
from residualformer.errors import UserError

ENGLISH = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"  # the columns of release 4
ROWS = [  # split, English, Chinese
    ("train", 'She said "no', "她说“不”"),
    ("train_covost", "It ends in a backslash \\\\", "末尾 有反斜杠"),
    ("dev", "Good morning.", "早上好。"),
    ("test", "Thank you!", "谢谢！"),
    ("dev_covost", "Not for use.", "不用。"),
]
NAMES = [f"common_voice_en_{1000 + number}" for number in range(len(ROWS))]


def tone(rate: int) -> np.ndarray:
    return 0.1 * np.sin(np.arange(rate // 2) * 440 * 2 * np.pi / rate)


@pytest.fixture
def voice(tmp_path):
    """The English of Common Voice 4, and the table of translations beside validated.tsv."""
    folder = tmp_path / covost.RELEASE / "en"
    (folder / "clips").mkdir(parents=True)
    english, chinese = ENGLISH, "path\ttranslation\tsplit\n"
    for number, (name, (split, sentence, translation)) in enumerate(zip(NAMES, ROWS)):
        rate = (48000, 32000)[number % 2]
        soundfile.write(folder / "clips" / f"{name}.mp3", tone(rate), rate, format="MP3")
        english += f"speaker{number}\t{name}.mp3\t{sentence}\t2\t0\t\t\tus\n"
        chinese += f"{name}.mp3\t{translation}\t{split}\n"
    (folder / "validated.tsv").write_text(english, encoding="utf-8")
    (folder / covost.TRANSLATIONS).write_text(chinese, encoding="utf-8")
    for other in ("train", "dev", "test", "invalidated", "other"):
        (folder / f"{other}.tsv").write_text(ENGLISH)
    return folder


@pytest.fixture
def skype(tmp_path):
    """MSLT v1.1 as unpacked: two utterances a set, the second one's translation in two sentences."""
    folder = tmp_path / "MSLT_Corpus"
    for name in ("Dev_EN", "Test_EN", "Dev_ZH"):
        inside = folder / "Data" / f"MSLT_{name}_20170914"
        inside.mkdir(parents=True)
        for number, chinese in enumerate(("嗯，是的。\r\n", "我住在西雅图。\r\n你呢？\r\n")):
            stem = inside / f"{name.lower()}_{number:05d}"
            soundfile.write(f"{stem}.T0.en.wav", tone(16000), 16000)
            texts = {"T1.en": "um, yeah\r\n", "T2.en": "Yeah.\r\nYes.\r\n", "T3.zh": chinese, "T3.ja": "はい。\r\n"}
            for kind, text in texts.items():
                Path(f"{stem}.{kind}.snt").write_bytes(text.encode("utf-16"))
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["covost.py", *map(str, arguments)])
    covost.main()


def both_stages(monkeypatch, tmp_path, *options) -> dict[str, CutSet]:
    run(monkeypatch, "obtain", "--out", tmp_path / "raw", *options)
    run(monkeypatch, "manifests", "--corpus", tmp_path / "raw", "--out", tmp_path / "m", *options)
    return {path.name[5:-9]: CutSet.from_file(path) for path in (tmp_path / "m").iterdir()}


def told(cuts: CutSet) -> dict[str, tuple]:
    supervisions = {cut.id: cut.supervisions[0] for cut in cuts}
    return {name: (each.text, each.custom["translation"], each.speaker) for name, each in supervisions.items()}


@pytest.mark.parametrize("inside", [False, True])
def test_english_speech_with_chinese_translations(voice, tmp_path, monkeypatch, inside):
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", voice.parent.parent if inside else voice)
    assert set(cuts) == {"train", "dev", "test"}
    assert told(cuts["train"]) == {
        NAMES[0]: ('She said "no', "她说“不”", "speaker0"),
        NAMES[1]: ("It ends in a backslash \\", "末尾 有反斜杠", "speaker1"),
    }
    assert told(cuts["dev"]) == {NAMES[2]: ("Good morning.", "早上好。", "speaker2")}
    assert told(cuts["test"]) == {NAMES[3]: ("Thank you!", "谢谢！", "speaker3")}
    audio = {cut.sampling_rate: cut.load_audio() for cut in cuts["train"]}
    assert {rate: samples.shape for rate, samples in audio.items()} == {48000: (1, 24000), 32000: (1, 16000)}


def test_rows_without_english_audio_or_translation_are_named(voice, tmp_path, monkeypatch, capsys):
    with open(voice / covost.TRANSLATIONS, "a", encoding="utf-8") as file:
        file.write("common_voice_en_7.mp3\t你好\ttrain\n")
        for name, translation in (("8", "REMOVE"), ("9", " "), ("10", "没有声音")):
            file.write(f"common_voice_en_{name}.mp3\t{translation}\ttest\n")
    with open(voice / "validated.tsv", "a", encoding="utf-8") as file:
        file.writelines(f"s\tcommon_voice_en_{name}.mp3\tHello.\t2\t0\t\t\t\n" for name in ("8", "9", "10"))
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", voice)
    assert len(cuts["train"]) == 2 and len(cuts["test"]) == 1
    captured = capsys.readouterr()
    for line in (
        "skipped in train: common_voice_en_7: it is not in validated.tsv",
        "skipped in test: common_voice_en_8: it has no translation ('REMOVE')",
        "skipped in test: common_voice_en_9: it has no translation ('')",
        "skipped in test: common_voice_en_10: there is a transcript but no audio",
    ):
        assert line in captured.err
    assert "test: 1 utterances, 0.00 h, 1 speakers, 3 skipped" in captured.out


def test_translations_are_fetched_where_they_are_not_there(voice, tmp_path, monkeypatch):
    table = (voice / covost.TRANSLATIONS).read_bytes()
    (voice / covost.TRANSLATIONS).unlink()
    with tarfile.open(tmp_path / f"{covost.TRANSLATIONS}.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(covost.TRANSLATIONS)
        member.size = len(table)
        tar.addfile(member, io.BytesIO(table))
    monkeypatch.setattr(covost, "fetch", lambda url, folder: Path(tmp_path / url.rsplit("/", 1)[-1]))
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", voice)
    assert len(cuts["train"]) == 2 and (tmp_path / "raw" / covost.TRANSLATIONS).read_bytes() == table


@pytest.mark.parametrize("missing", ["validated.tsv", "clips"])
def test_a_wrong_layout_is_named(voice, tmp_path, monkeypatch, missing):
    with pytest.raises(UserError, match="cannot be downloaded by a program: get the English of Common Voice Corpus 4"):
        run(monkeypatch, "obtain", "--out", tmp_path / "raw")
    (voice / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"Common Voice 4 in '.*' lacks '.*{missing}': get the English"):
        run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", voice)


def test_other_tables_are_named(voice, tmp_path, monkeypatch):
    for content, what in ((b"path\tsplit\n", "no column 'translation'"), (b"", "none"), (b"\xff\xfe", "not a table")):
        (voice / covost.TRANSLATIONS).write_bytes(content)
        with pytest.raises(UserError, match=f"covost_v2.en_zh-CN.tsv .*{what}.*: get it again"):
            both_stages(monkeypatch, tmp_path, "--corpus-dir", voice)


@pytest.mark.parametrize("part", ["", "Data", ".."])
def test_mslt_gives_further_test_sets(voice, skype, tmp_path, monkeypatch, part):
    cuts = both_stages(monkeypatch, tmp_path, "--corpus-dir", voice, "--mslt-dir", skype / part)
    assert set(cuts) == {"train", "dev", "test", "mslt@dev", "mslt@test"}
    assert told(cuts["mslt@test"]) == {
        "test_en_00000": ("Yeah. Yes.", "嗯，是的。", "test_en_00000"),
        "test_en_00001": ("Yeah. Yes.", "我住在西雅图。你呢？", "test_en_00001"),
    }
    assert sorted(told(cuts["mslt@dev"])) == ["dev_en_00000", "dev_en_00001"]


def test_copies_of_mslt_without_the_date_are_found(skype):
    dated = mslt.find(skype)
    assert {name: path.name for name, path in dated.items()} == {
        "dev": "MSLT_Dev_EN_20170914", "test": "MSLT_Test_EN_20170914"
    }  # fmt: skip
    (skype / "Data" / "MSLT_Test_EN").mkdir()
    assert mslt.find(skype) == dated  # the release's own name comes first
    dated["dev"].rename(skype / "Data" / "MSLT_Dev_EN")
    assert mslt.find(skype) == dated | {"dev": skype / "Data" / "MSLT_Dev_EN"}


def test_of_mslt_what_lacks_a_translation_is_named(skype):
    data = mslt.find(skype)["dev"]
    (data / "dev_en_00000.T3.zh.snt").unlink()
    (data / "dev_en_00001.T3.zh.snt").write_bytes("\r\n".encode("utf-16"))
    with pytest.raises(UserError, match="MSLT_Dev_EN_20170914' holds no .*T3.zh.snt"):
        mslt.read_set(data)
    (data / "dev_en_00000.T3.zh.snt").write_text("是的。", encoding="utf-8")
    utterances, orphans = mslt.read_set(data)
    assert [each.translation for each in utterances] == ["是的。"]
    assert orphans == ["dev_en_00001: its translation is empty"]
    (data / "dev_en_00001.T2.en.snt").write_bytes(b"\xff\xfe\x00")
    assert "dev_en_00001: its transcript or translation cannot be read" in mslt.read_set(data)[1][0]


def test_a_missing_set_of_mslt_is_named(skype, voice, tmp_path, monkeypatch):
    mslt.find(skype)["test"].rename(skype / "Data" / "MSLT_Test_EN_20160516")  # of an older release
    with pytest.raises(UserError, match="MSLT v1.1 in '.*' lacks '.*MSLT_Test_EN_20170914': .*id=55951"):
        run(monkeypatch, "obtain", "--out", tmp_path / "raw", "--corpus-dir", voice, "--mslt-dir", skype)
