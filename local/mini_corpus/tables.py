"""The sentences and words of corpus mini: templates.tsv and words.tsv, English in upper case beside its Chinese.

`grammar.py` explains slots. A command takes PLEASE and 请; a statement does not. Counted goods carry their measure word
before the noun; the Chinese weather follows 会, other adjectives follow 很 or 太.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

Pairs = list[tuple[str, str]]  # English, Chinese


def read_pairs(name: str) -> dict[str, Pairs]:
    """Read a table beside this file whose first column is the key of a row: {key: [(English, Chinese), ...]}."""
    pairs = defaultdict(list)
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()[1:]:
        key, english, chinese = line.split("\t")
        pairs[key].append((english, chinese))
    return dict(pairs)


_TEMPLATES = read_pairs("templates.tsv")
COMMANDS, STATEMENTS = _TEMPLATES["command"], _TEMPLATES["statement"]
WORDS = read_pairs("words.tsv")
