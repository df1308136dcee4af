"""Random sentences of corpus `mini` with their Chinese translations.

A template is an English and a Chinese sentence with the same slots. A value is drawn for each slot and written into
both sentences; '{name2}' is a second draw of '{name}'. A '~' marks a letter that is said by name. The Chinese has
commas between clauses and no final punctuation; numbers are in Chinese characters, spelled letters stay Latin.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from local.mini_corpus.tables import COMMANDS, STATEMENTS, WORDS

UNITS = (
    "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN "
    "EIGHTEEN NINETEEN"
).split()
TENS = "TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split()
IRREGULAR_ORDINALS = dict(
    ONE="FIRST", TWO="SECOND", THREE="THIRD", FIVE="FIFTH", EIGHT="EIGHTH", NINE="NINTH", TWELVE="TWELFTH"
)
CHINESE_DIGITS = "零一二三四五六七八九"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DAY_PARTS = (  # English, Chinese, first and last hour
    (" IN THE MORNING", "早上", 6, 11),
    (" IN THE AFTERNOON", "下午", 1, 5),
    (" IN THE EVENING", "晚上", 6, 10),
)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
PLEASE_SHARE = 0.3


class Pair(NamedTuple):
    """A phrase in both languages; the English in upper case, with '~' before spelled letters."""

    english: str
    chinese: str


class Sentence(NamedTuple):
    """A sentence: `text` as written, `spoken` with '~' before letters that are said by name, and the translation."""

    text: str
    spoken: str
    translation: str


def english_number(n: int) -> str:
    """Return 0 <= n < 10000 in words: 'TWO HUNDRED AND FIVE'."""
    if n < 20:
        return UNITS[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {UNITS[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{UNITS[n // 100]} HUNDRED" + (f" AND {english_number(n % 100)}" if n % 100 else "")
    link = " AND " if n % 1000 < 100 else " "
    return f"{english_number(n // 1000)} THOUSAND" + (link + english_number(n % 1000) if n % 1000 else "")


def english_ordinal(n: int) -> str:
    """Return the ordinal of 1 <= n < 100: 'TWENTY FIRST'."""
    *head, last = english_number(n).split()
    return " ".join([*head, IRREGULAR_ORDINALS.get(last, last[:-1] + "IETH" if last.endswith("Y") else last + "TH")])


def chinese_number(n: int, counting: bool = False) -> str:
    """Return 0 <= n < 10000 in Chinese: 205 is 两百零五. Before a measure word (`counting`), 2 is 两 instead of 二."""
    if n == 2 and counting:
        return "两"
    if n < 10:
        return CHINESE_DIGITS[n]
    written, zero = "", False
    for power, sign in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = n // power % 10
        if digit == 0:
            zero = bool(written)
            continue
        written += ("零" if zero else "") + ("两" if digit == 2 and power >= 100 else CHINESE_DIGITS[digit]) + sign
        zero = False
    return written.removeprefix("一") if 10 <= n < 20 else written


def chinese_digits(digits: list[int]) -> str:
    """Return digits one by one in Chinese."""
    return "".join(CHINESE_DIGITS[digit] for digit in digits)


def draw_number(rng: np.random.Generator, low: int, high: int) -> Pair:
    """Draw a number from `low` to `high`."""
    n = int(rng.integers(low, high + 1))
    return Pair(english_number(n), chinese_number(n))


def draw_count(rng: np.random.Generator, low: int = 2, high: int = 30) -> Pair:
    """Draw a number that a measure word follows; at least two, because the English noun is plural."""
    n = int(rng.integers(low, high + 1))
    return Pair(english_number(n), chinese_number(n, counting=True))


def draw_measure(rng: np.random.Generator, unit: str, high: int) -> Pair:
    """Draw a count of a word of WORDS[unit], whose Chinese begins with the measure word."""
    count, (english, chinese) = draw_count(rng, 2, high), draw_word(rng, unit)
    return Pair(f"{count.english} {english}", count.chinese + chinese)


def draw_digits(rng: np.random.Generator, low: int, high: int) -> Pair:
    """Draw `low` to `high` digits."""
    digits = rng.integers(0, 10, rng.integers(low, high + 1)).tolist()
    return Pair(" ".join(UNITS[digit] for digit in digits), chinese_digits(digits))


def draw_letters(rng: np.random.Generator, low: int, high: int) -> Pair:
    """Draw `low` to `high` spelled letters."""
    return spell("".join(LETTERS[i] for i in rng.integers(0, 26, rng.integers(low, high + 1))))


def spell(word: str) -> Pair:
    """Spell a word letter by letter."""
    return Pair(" ".join("~" + letter for letter in word if letter != " "), word)


def draw_code(rng: np.random.Generator) -> Pair:
    """Draw letters followed by digits, or the reverse."""
    parts = [draw_letters(rng, 1, 3), draw_digits(rng, 1, 4)]
    parts = parts[:: rng.choice([1, -1])]
    return Pair(" ".join(part.english for part in parts), "".join(part.chinese for part in parts))


def draw_spelled_name(rng: np.random.Generator) -> Pair:
    """Draw a name or surname and spell it."""
    return spell(draw_word(rng, str(rng.choice(["name", "surname"]))).english)


def draw_date(rng: np.random.Generator) -> Pair:
    """Draw a day of the year."""
    month = int(rng.integers(12))
    day = int(rng.integers(1, MONTH_DAYS[month] + 1))
    english, chinese = WORDS["month"][month]
    order = f"THE {english_ordinal(day)} OF {english}" if rng.random() < 0.4 else f"{english} {english_ordinal(day)}"
    return Pair(order, f"{chinese}{chinese_number(day)}日")


def draw_year(rng: np.random.Generator) -> Pair:
    """Draw a year from 1900 to 2030."""
    year = int(rng.integers(1900, 2031))
    if 2000 <= year < 2010:
        english = english_number(year)
    else:
        tail = english_number(year % 100) if year % 100 > 9 else f"OH {english_number(year % 100)}"
        english = f"{english_number(year // 100)} {tail if year % 100 else 'HUNDRED'}"
    return Pair(english, chinese_digits([int(digit) for digit in str(year)]) + "年")


def draw_time(rng: np.random.Generator) -> Pair:
    """Draw a time, in half of the cases with the part of the day."""
    part = int(rng.integers(2 * len(DAY_PARTS)))
    english_part, chinese_part, low, high = DAY_PARTS[part] if part < len(DAY_PARTS) else ("", "", 1, 12)
    hour = int(rng.integers(low, high + 1))
    english, chinese = draw_clock(rng, hour)
    return Pair(english + english_part, chinese_part + chinese)


def draw_clock(rng: np.random.Generator, hour: int) -> Pair:
    """Draw a time within `hour`, or shortly before the next one, without the part of the day."""
    named, chinese = english_number(hour), chinese_number(hour, counting=True) + "点"
    minute = int(rng.integers(10, 60))
    before, next_hour = int(rng.choice([5, 10, 20])), english_number(hour % 12 + 1)
    return [
        Pair(f"{named} O'CLOCK", chinese),
        Pair(f"HALF PAST {named}", chinese + "半"),
        Pair(f"A QUARTER PAST {named}", chinese + "一刻"),
        Pair(f"A QUARTER TO {next_hour}", chinese + "三刻"),
        Pair(f"{english_number(before)} PAST {named}", f"{chinese}{'零' * (before < 10)}{chinese_number(before)}分"),
        Pair(f"{english_number(before)} TO {next_hour}", f"{chinese}{chinese_number(60 - before)}分"),
        Pair(f"{named} {english_number(minute)}", f"{chinese}{chinese_number(minute)}分"),
    ][min(int(rng.integers(9)), 6)]


def draw_price(rng: np.random.Generator) -> Pair:
    """Draw a price, in half of the cases with cents."""
    whole = draw_count(rng, 2, 120)
    if rng.random() < 0.5:
        return Pair(f"{whole.english} DOLLARS", f"{whole.chinese}美元")
    cents = draw_number(rng, 10, 99)
    return Pair(f"{whole.english} DOLLARS AND {cents.english} CENTS", f"{whole.chinese}美元{cents.chinese}美分")


def draw_degrees(rng: np.random.Generator) -> Pair:
    """Draw a temperature."""
    size = draw_count(rng, 2, 39)
    below = rng.random() < 0.3
    return Pair(f"{'MINUS ' if below else ''}{size.english} DEGREES", f"{'零下' if below else ''}{size.chinese}度")


def draw_full_name(rng: np.random.Generator) -> Pair:
    """Draw a name with a surname."""
    first, last = draw_word(rng, "name"), draw_word(rng, "surname")
    return Pair(f"{first.english} {last.english}", f"{first.chinese}·{last.chinese}")


def draw_person(rng: np.random.Generator) -> Pair:
    """Draw a relative or a name."""
    return draw_word(rng, "relative" if rng.random() < 0.5 else "name")


def draw_ordinal(rng: np.random.Generator) -> Pair:
    """Draw an ordinal from 1 to 40."""
    n = int(rng.integers(1, 41))
    return Pair(english_ordinal(n), "第" + chinese_number(n))


def draw_word(rng: np.random.Generator, kind: str) -> Pair:
    """Draw one of WORDS[kind]."""
    return Pair(*WORDS[kind][rng.integers(len(WORDS[kind]))])


SLOTS: dict[str, Callable[[np.random.Generator], Pair]] = {
    "number": lambda rng: draw_number(rng, 2, 999),
    "big": lambda rng: draw_number(rng, 100, 9999),
    "small": lambda rng: draw_number(rng, 2, 99),
    "count": draw_count,
    "goods": lambda rng: draw_measure(rng, "goods", 20),
    "distance": lambda rng: draw_measure(rng, "length_unit", 300),
    "weight": lambda rng: draw_measure(rng, "mass_unit", 300),
    "duration": lambda rng: draw_measure(rng, "short_unit", 60),
    "period": lambda rng: draw_measure(rng, "long_unit", 30),
    "digits": lambda rng: draw_digits(rng, 3, 6),
    "phone": lambda rng: draw_digits(rng, 6, 8),
    "letters": lambda rng: draw_letters(rng, 3, 6),
    "code": draw_code,
    "spelled": draw_spelled_name,
    "date": draw_date,
    "year": draw_year,
    "time": draw_time,
    "price": draw_price,
    "degrees": draw_degrees,
    "full_name": draw_full_name,
    "person": draw_person,
    "ordinal": draw_ordinal,
}


def draw_slots(slots: list[str], rng: np.random.Generator) -> dict[str, Pair]:
    """Draw a different value for each slot; a final digit of its name does not count."""
    drawn: dict[str, Pair] = {}
    for slot in slots:
        kind = slot.rstrip("0123456789")
        pair = None
        while pair is None or pair in drawn.values():
            pair = SLOTS[kind](rng) if kind in SLOTS else draw_word(rng, kind)
        drawn[slot] = pair
    return drawn


def draw_sentence(rng: np.random.Generator) -> Sentence:
    """Draw a template, uniformly, and its slots; commands get a PLEASE with probability PLEASE_SHARE."""
    number = int(rng.integers(len(COMMANDS) + len(STATEMENTS)))
    command = number < len(COMMANDS)
    english, chinese = COMMANDS[number] if command else STATEMENTS[number - len(COMMANDS)]
    drawn = draw_slots(re.findall(r"{(\w+)}", english), rng)
    english = english.format(**{slot: pair.english for slot, pair in drawn.items()})
    chinese = chinese.format(**{slot: pair.chinese for slot, pair in drawn.items()})
    if command and rng.random() < PLEASE_SHARE:
        english = f"PLEASE {english}" if rng.random() < 0.5 else f"{english} PLEASE"
        chinese = f"请{chinese}"
    return Sentence(text=english.replace("~", ""), spoken=english, translation=chinese)
