"""AN4's lexicon: every word of the corpus, one way to write each, in the order of the English."""

from __future__ import annotations

import re

import pytest
from lhotse import CutSet
from support.audio import write_wav

from local import an4
from local.an4_corpus.lexicon import LETTERS, LEXICON, translate
from residualformer.data.validate import write_cuts

# All words of etc/an4_{train,test}.transcription and etc/an4.dic, from the corpus.
WORDS = """
    A AND APOSTROPHE APRIL AREA AUGUST B C CODE D DECEMBER E EIGHT EIGHTEEN EIGHTEENTH EIGHTH EIGHTY ELEVEN
    ELEVENTH ENTER ERASE F FEBRUARY FIFTEEN FIFTEENTH FIFTH FIFTY FIRST FIVE FORTY FOUR FOURTEEN FOURTH G GO H
    HALF HELP HUNDRED I J JANUARY JULY JUNE K L M MARCH MAY N NINE NINETEEN NINETY NINTH NO NOVEMBER O OCTOBER
    OF OH ONE P Q R REPEAT RUBOUT S SECOND SEPTEMBER SEVEN SEVENTEEN SEVENTH SEVENTY SIX SIXTEEN SIXTEENTH SIXTH
    SIXTY START STOP T TEN THIRD THIRTEEN THIRTIETH THIRTY THOUSAND THREE TWELFTH TWELVE TWENTIETH TWENTY TWO U
    V W X Y YES Z ZERO""".split()


def test_it_has_every_word_of_the_corpus_and_of_its_synthetic_companion():
    spoken = [*an4.COMMANDS, *an4.DIGITS, *an4.TEENS, *an4.TENS, *an4.LETTERS]
    assert LEXICON.keys() >= {*WORDS, *spoken}


def test_letters_stay_and_all_else_is_chinese():
    for word, chinese in LEXICON.items():
        assert chinese == word if word in LETTERS else re.fullmatch(r"[\u4e00-\u9fff]+", chinese), word


def value(chinese: str) -> int:
    """Of a number below 100 in Chinese."""
    digits = {sign: n for n, sign in enumerate("零一二三四五六七八九")}
    tens, ten, ones = chinese.rpartition("十")
    return (10 * (digits[tens] if tens else 1) if ten else 0) + (digits[ones] if ones else 0)


def test_numbers_days_and_months_have_their_values():
    units = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE".split()
    teens = "THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN".split()
    tens = "TEN TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split()
    expected = {word: n for n, word in enumerate(units + teens)} | {word: 10 * n for n, word in enumerate(tens, 1)}
    assert {word: value(LEXICON[word]) for word in expected} == expected
    ordinals = "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH".split()
    days = {word: n for n, word in enumerate(ordinals, 1)} | {f"{word}TH": expected[word] for word in teens}
    days |= {"TWENTIETH": 20, "THIRTIETH": 30}
    assert {word: value(LEXICON[word].removesuffix("日")) for word in days} == days
    assert all(LEXICON[word].endswith("日") for word in days)
    months = "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER".split()
    assert [value(LEXICON[word].removesuffix("月")) for word in months] == list(range(1, 13))


def test_it_goes_word_for_word_whatever_stands_around():
    assert translate("ENTER G M SIXTY THREE") == "输入G M六十三"
    assert translate("MAY TWENTY FIRST NINETEEN SIXTY") == "五月二十一日十九六十"
    assert translate("O APOSTROPHE H A R A") == "O撇号H A R A" and translate(" YES  NO ") == "是否"
    words = sorted(LEXICON)
    for first in words:  # the pair is what its words are, but for the space between letters
        for second in words[:: len(words) // 20]:
            pair = translate(f"{first} {second}")
            assert pair.replace(" ", "") == LEXICON[first] + LEXICON[second]
            assert (" " in pair) == (first in LETTERS and second in LETTERS)


def test_a_text_with_another_word_has_no_translation():
    assert translate("") == translate("ENTER FOO") == translate("enter") == ""


@pytest.mark.parametrize("text", ["YES", "G A ONE", "RUBOUT T M"])
def test_cuts_carry_it(text, tmp_path):
    for split, name in (("train", "an0-fabc-b"), ("test", "an99-fxyz-b")):
        write_wav(tmp_path / an4.AUDIO_FOLDERS[split] / f"{name}.wav")
        path = tmp_path / an4.TRANSCRIPTS[split]
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<s> {text} </s> ({name})\n")
    utterances, _ = an4.read_split(tmp_path, "test")
    write_cuts(utterances, "test", tmp_path / "cuts_test.jsonl.gz", an4.SAMPLING_RATE, [])
    (cut,) = CutSet.from_file(tmp_path / "cuts_test.jsonl.gz")
    assert cut.supervisions[0].custom == {"translation": translate(text)} and translate(text)
