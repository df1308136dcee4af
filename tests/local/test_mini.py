"""Corpus mini: the grammar in both languages, the splits, and audio that depends on the seed alone."""

from __future__ import annotations

import json
import re
import shutil
import sys
from itertools import islice

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from local import mini
from local.common.synthesis import Renderer
from local.mini_corpus import word_times
from local.mini_corpus.grammar import (
    Pair,
    chinese_number,
    draw_clock,
    draw_date,
    draw_sentence,
    draw_year,
    english_number,
    english_ordinal,
)
from local.mini_corpus.more_text import more_sentences
from local.mini_corpus.tables import COMMANDS, STATEMENTS
from residualformer.errors import UserError
from residualformer.parallel import worker_map
from residualformer.words.formats import read_ctm


@pytest.fixture(scope="module")
def sentences():
    rng = np.random.default_rng(0)
    return [draw_sentence(rng) for _ in range(20_000)]


def read_english(words: str) -> int:
    """The value of a number in English words, told by rules of its own."""
    small = dict(zip("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE".split(), range(13)))
    small |= {f"{stem}TEEN": n for n, stem in enumerate("THIR FOUR FIF SIX SEVEN EIGH NINE".split(), 13)}
    small |= {f"{stem}TY": 10 * n for n, stem in enumerate("TWEN THIR FOR FIF SIX SEVEN EIGH NINE".split(), 2)}
    total = part = 0
    for word in words.replace(" AND ", " ").split():
        if word == "THOUSAND":
            total, part = 1000 * part, 0
        else:
            part = part * 100 if word == "HUNDRED" else part + small[word]
    return total + part


def read_chinese(text: str) -> int:
    """The value of a number in Chinese characters."""
    digits = {sign: n for n, sign in enumerate("零一二三四五六七八九")} | {"两": 2}
    total, digit = 0, None
    for sign in text:
        if sign in digits:
            digit = digits[sign]
        else:
            total, digit = total + (1 if digit is None else digit) * {"十": 10, "百": 100, "千": 1000}[sign], None
    return total + (digit or 0)


def test_numbers_mean_the_same_in_both_languages():
    for n in range(10_000):
        assert read_english(english_number(n)) == n
        assert read_chinese(chinese_number(n)) == n


def test_numbers_as_they_are_usually_written():
    cases = {0: "零", 2: "二", 10: "十", 12: "十二", 20: "二十", 105: "一百零五", 110: "一百一十", 222: "两百二十二"}
    cases |= {1001: "一千零一", 1010: "一千零一十", 2002: "两千零二", 3050: "三千零五十", 9900: "九千九百"}
    assert {n: chinese_number(n) for n in cases} == cases
    assert chinese_number(2, counting=True) == "两" and chinese_number(12, counting=True) == "十二"
    assert english_number(2005) == "TWO THOUSAND AND FIVE" and english_number(215) == "TWO HUNDRED AND FIFTEEN"
    ordinals = {1: "FIRST", 12: "TWELFTH", 15: "FIFTEENTH", 20: "TWENTIETH", 22: "TWENTY SECOND", 31: "THIRTY FIRST"}
    assert {n: english_ordinal(n) for n in ordinals} == ordinals


def test_clock_dates_and_years_mean_the_same_in_both_languages():
    rng = np.random.default_rng(0)
    clocks = {draw_clock(rng, 11) for _ in range(500)}
    assert Pair("HALF PAST ELEVEN", "十一点半") in clocks
    assert Pair("A QUARTER TO TWELVE", "十一点三刻") in clocks
    assert Pair("FIVE PAST ELEVEN", "十一点零五分") in clocks
    assert Pair("TWENTY TO TWELVE", "十一点四十分") in clocks
    assert Pair("FIVE TO ONE", "十二点五十五分") in {draw_clock(rng, 12) for _ in range(500)}
    assert Pair("TWO O'CLOCK", "两点") in {draw_clock(rng, 2) for _ in range(500)}
    years = {draw_year(rng) for _ in range(5000)}
    assert {Pair("NINETEEN HUNDRED", "一九零零年"), Pair("NINETEEN OH SEVEN", "一九零七年")} <= years
    assert {Pair("TWO THOUSAND AND FIVE", "二零零五年"), Pair("TWENTY FIFTEEN", "二零一五年")} <= years
    dates = {draw_date(rng) for _ in range(5000)}
    assert {Pair("MAY TWENTY FIRST", "五月二十一日"), Pair("THE SECOND OF JUNE", "六月二日")} <= dates


def test_templates_have_the_same_slots_in_both_languages():
    templates = COMMANDS + STATEMENTS
    assert len(templates) >= 60 and len({english for english, _ in templates}) == len(templates)
    for english, chinese in templates:
        slots = re.findall(r"{(\w+)}", english)
        assert sorted(slots) == sorted(re.findall(r"{(\w+)}", chinese)) and len(slots) == len(set(slots))


def test_the_grammar_is_varied(sentences):
    words = {word for sentence in sentences for word in sentence.text.split()}
    assert len(words) >= 300
    assert len({sentence.text for sentence in sentences}) > 0.8 * len(sentences)


def test_sentences_are_clean_in_both_languages(sentences):
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", sentence.text), sentence
        assert re.fullmatch(r"[\u4e00-\u9fffA-Z，·]+", sentence.translation), sentence
        assert sentence.spoken.replace("~", "") == sentence.text


def test_spelled_letters_are_the_same_in_both_languages_and_marked(sentences):
    for sentence in sentences:
        spelled = re.findall(r"~([A-Z])", sentence.spoken)
        assert sorted(spelled) == sorted(re.findall("[A-Z]", sentence.translation)), sentence
        # what stays unmarked among single letters is the article or the pronoun
        assert set(re.findall(r"(?<![~'A-Z])([A-Z])(?![A-Z'])", sentence.spoken)) <= {"A", "I"}


def test_ssml_marks_letters_for_the_engine():
    said = mini.to_ssml("THE ~A IN A ~B")
    assert said == (
        'the <say-as interpret-as="characters">a</say-as> in a <say-as interpret-as="characters">b</say-as>'
    )


def test_voices_are_many_and_no_voice_file_serves_two_splits():
    speakers = mini.split_speakers(1)
    assert len({speaker.voice for split in speakers.values() for speaker in split}) > 100
    files = {split: {speaker.voice.variant for speaker in group} for split, group in speakers.items()}
    names = [speaker.name for group in speakers.values() for speaker in group]
    assert len(names) == len(set(names))
    assert not files["train"] & files["dev"] and not files["train"] & files["test"] and not files["dev"] & files["test"]
    assert speakers == mini.split_speakers(1) and speakers != mini.split_speakers(2)


def first_lines(count: int, split: str = "dev"):
    return list(islice(mini.draw_lines(split, mini.split_speakers(1)[split], 1, set()), count))


def test_audio_does_not_depend_on_jobs_or_company(tmp_path):
    lines = first_lines(12)
    audio = []
    for jobs, order in ((1, 1), (2, -1)):
        renderer = Renderer(tmp_path / str(jobs), 1, mini.CONDITIONS, lines, keep=False)
        with worker_map(jobs) as spread:
            list(spread(renderer, lines[::order]))
        audio.append([(tmp_path / str(jobs) / "dev" / f"{line.id}.flac").read_bytes() for line in lines])
    assert audio[0] == audio[1]
    assert len(set(audio[0])) == len(lines)


def obtain(monkeypatch, out, seed=1, *more):
    options = ["--seed", seed, "--train-hours", 0.005, "--dev-minutes", 0.1, "--test-minutes", 0.1, "--jobs", 1, *more]
    monkeypatch.setattr(sys, "argv", ["mini.py", "obtain", "--out", str(out), *map(str, options)])
    monkeypatch.setattr(mini, "LINES_AT_A_TIME", 8)  # less thrown away
    mini.main()
    return [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a small corpus, and its records."""
    out = tmp_path_factory.mktemp("corpus") / "mini"
    with pytest.MonkeyPatch.context() as patch:
        return out, obtain(patch, out)


def test_obtain_goes_on_after_an_interruption_and_splits_share_nothing(corpus, tmp_path, monkeypatch):
    out, records = shutil.copytree(corpus[0], tmp_path / "mini"), corpus[1]
    audio = {path: path.read_bytes() for path in out.rglob("*.flac")}
    assert len(audio) == len(records)  # what was rendered beyond the target is gone
    (out / "transcripts.jsonl").unlink()
    missing, cut_off, flipped, sound = sorted(audio)[:4]
    missing.unlink()
    cut_off.write_bytes(audio[cut_off][:5000])
    flipped.write_bytes(audio[flipped][:5000] + bytes([audio[flipped][5000] ^ 4]) + audio[flipped][5001:])
    missing.with_name(f".77.{missing.name}").write_bytes(b"half")
    kept = sound.stat().st_mtime_ns
    assert obtain(monkeypatch, out) == records
    assert {path: path.read_bytes() for path in out.rglob("*.flac")} == audio
    assert sound.stat().st_mtime_ns == kept
    missing.unlink()  # of a finished corpus
    assert obtain(monkeypatch, out) == records and missing.read_bytes() == audio[missing]
    texts = {split: {row["text"] for row in records if row["split"] == split} for split in mini.SPEAKERS}
    assert all(texts.values()) and sum(map(len, texts.values())) == len(records)
    assert len(set().union(*texts.values())) == len(records)
    other = obtain(monkeypatch, out, seed=2)  # other options: nothing old is left
    assert {row["text"] for row in other}.isdisjoint({row["text"] for row in records})
    assert len(list(out.rglob("*.flac"))) == len(other)


def test_a_long_test_set_changes_no_other_and_shares_the_voice_files_of_test(corpus, tmp_path, monkeypatch):
    records = obtain(monkeypatch, tmp_path / "long", 1, "--long-test-hours", 0.01)
    texts = [row["text"] for row in records]
    assert len(set(texts)) == len(texts) and sum(row["split"] == "test_long" for row in records) > 5
    assert [row for row in records if row["split"] != "test_long"] == corpus[1]
    speakers = mini.split_speakers(1)
    variants = {split: {speaker.voice.variant for speaker in speakers[split]} for split in speakers}
    assert variants["test_long"] == variants["test"] and len({s.name for s in speakers["test_long"]}) == 96
    voices = {(s.voice, s.name) for s in speakers["test_long"]}
    assert voices.isdisjoint({(s.voice, s.name) for s in speakers["test"]})


def test_streams_hold_the_sentences_of_dev_and_test_with_pauses_for_the_given_share(corpus, tmp_path, monkeypatch):
    out = tmp_path / "streams"
    records = obtain(monkeypatch, out, 1, "--pauses", 0.5)
    single = {split: [row for row in corpus[1] if row["split"] == split] for split in mini.SPEAKERS}
    assert [row for row in records if row["split"] == "train"] == single["train"]
    for split in ("dev", "test"):
        streams = [row for row in records if row["split"] == split]
        assert len(streams) == -(-len(single[split]) // 3)
        assert " ".join(row["text"] for row in streams) == " ".join(row["text"] for row in single[split])
        for number, stream in enumerate(streams):
            members = [soundfile.read(out / row["audio"], dtype="int16")[0] for row in single[split][3 * number :][:3]]
            samples, _ = soundfile.read(out / stream["audio"], dtype="int16")
            assert abs(len(samples) - 2 * sum(map(len, members))) <= 2  # the pauses of three are rounded
            start = 0
            for each in members:  # in their order, sample by sample
                places = np.flatnonzero(samples[start : len(samples) - len(each) + 1] == each[0]) + start
                start = next(place for place in places if np.array_equal(samples[place : place + len(each)], each))
                start += len(each)
            assert stream["duration"] == round(len(samples) / 16000, 4)
    with pytest.raises(UserError, match="--split dev: .* has streams"):
        word_times.drawn_lines(out, "dev")
    assert obtain(monkeypatch, out, 1, "--pauses", 0.5) == records  # the pauses are those of the seed
    assert obtain(monkeypatch, out) == corpus[1] and not (out / "streams").exists()
    with pytest.raises(UserError, match="--pauses is '1'; it must be a number from 0 to 0.95"):
        obtain(monkeypatch, out, 1, "--pauses", 1)


def test_true_times_of_words_are_those_of_the_audio(corpus, tmp_path, monkeypatch):
    folder, records = corpus[0], {row["id"]: row for row in corpus[1]}
    for split in ("dev", "test"):
        arguments = ["--corpus", folder, "--split", split, "--out", tmp_path / f"{split}.ctm"]
        monkeypatch.setattr(sys, "argv", ["word_times.py", *map(str, arguments)])
        word_times.main()
        found = read_ctm(tmp_path / f"{split}.ctm")
        assert found
        for name, words in found.items():
            assert [each.word for each in words] == records[name]["text"].split()
            samples, rate = soundfile.read(folder / records[name]["audio"])
            loud = np.zeros(len(samples), bool)
            for each in words:
                assert 0 <= each.start < each.end <= len(samples) / rate
                loud[round(each.start * rate) : round(each.end * rate)] = True
            assert np.square(samples[loud]).mean() > 3 * np.square(samples[~loud]).mean()  # at 15 dB of noise or less
    with pytest.raises(UserError, match="--split tset: .* has test, dev, train"):
        word_times.drawn_lines(folder, "tset")


def test_manifests(corpus, tmp_path, monkeypatch):
    folder, records = corpus
    arguments = ["mini.py", "manifests", "--corpus", str(folder), "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", arguments)
    mini.main()
    for split in ("train", "dev", "test"):
        cuts = CutSet.from_file(tmp_path / "m" / f"cuts_{split}.jsonl.gz")
        rows = [row for row in records if row["split"] == split]
        assert [cut.id for cut in cuts] == [row["id"] for row in rows]
        for cut, row in zip(cuts, rows):
            supervision = cut.supervisions[0]
            assert (supervision.text, supervision.custom["translation"]) == (row["text"], row["translation"])
            assert supervision.speaker == row["speaker"]
            assert cut.duration == pytest.approx(row["duration"], abs=1e-4)  # rounded in the transcripts
            info = soundfile.info(cut.recording.sources[0].source)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert np.abs(cut.load_audio()).max() > 0.01


def test_what_cannot_be_done_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mini.py", "manifests", "--corpus", str(tmp_path), "--out", str(tmp_path / "m")])
    with pytest.raises(UserError, match="run stage 0 first"):
        mini.main()
    monkeypatch.setattr(sys, "argv", ["mini.py", "obtain", "--out", str(tmp_path / "a"), "--train-hours", "0"])
    with pytest.raises(UserError, match="must be above 0"):
        mini.main()
    foreign = tmp_path / "foreign" / "train" / "mine.flac"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"precious")
    with pytest.raises(UserError, match="was not made by this script"):
        obtain(monkeypatch, tmp_path / "foreign")
    assert foreign.read_bytes() == b"precious"


def test_more_text_has_no_sentence_of_the_corpus(sentences):
    known = {sentence.text for sentence in sentences}
    found = more_sentences(known, 300, seed=1)
    assert len(set(found)) == 300 and not known & set(found)
    assert max(len(text.split()) for text in found) <= mini.MAX_WORDS
    assert more_sentences(known, 300, seed=1) == found != more_sentences(known, 300, seed=2)
