"""Templates and words of corpus mini, from templates.tsv and words.tsv: upper-case English beside its Chinese.

`grammar.py` explains slots. Commands may take PLEASE and 请, statements do not. The Chinese of counted goods begins
with the measure word; the Chinese of weather follows 会, that of other adjectives follows 很 or 太.
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
