"""Normalization of transcripts in any language."""

from __future__ import annotations

import re
import unicodedata

ENGLISH = re.compile(r"[A-Z']+( [A-Z']+)*")  # what `spoken` texts consist of
ANY_LETTERS = re.compile(r"\D+")
CASES = ("keep", "lower", "upper")
# soft hyphen, zero-width space, word joiner, byte order mark; writing directions; variants of emoji
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, 0x200E, 0x200F, *range(0x202A, 0x202F)])
_INVISIBLE |= dict.fromkeys([*range(0x2066, 0x206A), 0xFE0E, 0xFE0F])
_APOSTROPHES = "'’"
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "IDEOGRAPHIC")


def normalize(text: str, case: str = "keep", punctuation: bool = True) -> str:
    """Return `text` in Unicode's composed form (NFC), single-spaced and without invisible characters.

    Args:
        text: in any script.
        case: `keep`, `lower` or `upper`.
        punctuation: False to remove punctuation and symbols except apostrophes within words. A space takes their place,
            but not beside scripts without spaces. Words without a letter or number, such as the joiners of emoji, are
            removed too.

    Raises:
        ValueError: `case` is none of these.
    """
    if case not in CASES:
        raise ValueError(f"case is '{case}'; allowed: {', '.join(CASES)}")
    text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    if not punctuation:
        text = _without_punctuation(text)
    if case != "keep":
        text = unicodedata.normalize("NFC", text.lower() if case == "lower" else text.upper())
    return " ".join(text.split())


def spoken(text: str, allowed: re.Pattern[str]) -> str | None:
    """Return `text` in capital letters without punctuation but apostrophes, the convention of transcripts.

    None if it then does not match `allowed` as a whole, such as a text with digits: how they were said is not known.
    """
    normalized = normalize(text, "upper", punctuation=False)
    return normalized if allowed.fullmatch(normalized) else None


def is_unspaced(character: str) -> bool:
    """Return True for characters of scripts without spaces between words: Chinese, Japanese, Thai, ..."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


def _without_punctuation(text: str) -> str:
    kept: list[str] = []
    for i, character in enumerate(text):
        if unicodedata.category(character)[0] not in "PS":
            kept.append(character)
            continue
        around = [text[j] for j in (i - 1, i + 1) if 0 <= j < len(text)]
        if character in _APOSTROPHES and len(around) == 2 and all(c.isalnum() for c in around):
            kept.append("'")
        elif not any(is_unspaced(c) for c in around):
            kept.append(" ")
    words = "".join(kept).split()
    return " ".join(word for word in words if any(unicodedata.category(character)[0] in "LN" for character in word))
