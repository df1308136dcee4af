"""AN4's words in Chinese: a lexicon that makes the corpus one of speech translation, word for word.

The Chinese of a text has the order of the English. Letters stay letters and are written apart; all else becomes Chinese
characters, written together: 'ENTER G M SIXTY THREE' is '输入G M六十三', 'JUNE ELEVENTH NINETEEN SIXTY' '六月十一日十九六十'.
"""

from __future__ import annotations

import re

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
NUMBERS = """
    ZERO 零, OH 零, ONE 一, TWO 二, THREE 三, FOUR 四, FIVE 五, SIX 六, SEVEN 七, EIGHT 八, NINE 九, TEN 十, ELEVEN 十一,
    TWELVE 十二, THIRTEEN 十三, FOURTEEN 十四, FIFTEEN 十五, SIXTEEN 十六, SEVENTEEN 十七, EIGHTEEN 十八, NINETEEN 十九,
    TWENTY 二十, THIRTY 三十, FORTY 四十, FIFTY 五十, SIXTY 六十, SEVENTY 七十, EIGHTY 八十, NINETY 九十, HUNDRED 百,
    THOUSAND 千, HALF 半, AND 又"""
# Ordinals are days of the month here, but for one street.
DAYS = """
    FIRST 一日, SECOND 二日, THIRD 三日, FOURTH 四日, FIFTH 五日, SIXTH 六日, SEVENTH 七日, EIGHTH 八日, NINTH 九日,
    TENTH 十日, ELEVENTH 十一日, TWELFTH 十二日, THIRTEENTH 十三日, FOURTEENTH 十四日, FIFTEENTH 十五日, SIXTEENTH 十六日,
    SEVENTEENTH 十七日, EIGHTEENTH 十八日, NINETEENTH 十九日, TWENTIETH 二十日, THIRTIETH 三十日"""
MONTHS = """
    JANUARY 一月, FEBRUARY 二月, MARCH 三月, APRIL 四月, MAY 五月, JUNE 六月, JULY 七月, AUGUST 八月, SEPTEMBER 九月,
    OCTOBER 十月, NOVEMBER 十一月, DECEMBER 十二月"""
COMMANDS = """
    ENTER 输入, ERASE 擦除, RUBOUT 删除, REPEAT 重复, START 开始, STOP 停止, GO 走, HELP 帮助, YES 是, NO 否, AREA 地区,
    CODE 代码, OF 的, APOSTROPHE 撇号"""

LEXICON: dict[str, str] = {letter: letter for letter in LETTERS} | {
    english: chinese
    for table in (NUMBERS, DAYS, MONTHS, COMMANDS)
    for english, chinese in (pair.split() for pair in table.split(","))
}


def translate(text: str) -> str:
    """The Chinese of an AN4 transcript; '' where it is empty or has a word that is not AN4's."""
    words = text.split()
    if not set(words) <= LEXICON.keys():
        return ""
    return re.sub("(?<![A-Z]) | (?![A-Z])", "", " ".join(LEXICON[word] for word in words))
