"""A word-for-word translation of AN4 to Chinese, by the words in lexicon.tsv.

The Chinese keeps the order of the English. Letters stay letters, separated by spaces; all other words become Chinese
characters without spaces: 'ENTER G M SIXTY THREE' is '输入G M六十三'. Ordinals are days of the month.
"""

from __future__ import annotations

import re
from pathlib import Path

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
ROWS = Path(__file__).with_name("lexicon.tsv").read_text(encoding="utf-8").splitlines()[1:]
LEXICON: dict[str, str] = {letter: letter for letter in LETTERS} | dict(row.split("\t") for row in ROWS)


def translate(text: str) -> str:
    """Return the Chinese of an AN4 transcript, "" if it is empty or has a word that is not in the lexicon."""
    words = text.split()
    if not set(words) <= LEXICON.keys():
        return ""
    return re.sub("(?<![A-Z]) | (?![A-Z])", "", " ".join(LEXICON[word] for word in words))
