"""A hand-written n-gram model, and P(word | history) straight from the text of an ARPA file."""

from __future__ import annotations

import math

TRIGRAMS = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-1.5\t<unk>\t-0.05
-0.5\ta\t-0.2
-0.6\tb\t-0.1
-0.9\tc

\\2-grams:
-0.2\t<s> a\t-0.15
-0.4\ta b\t-0.25
-0.7\tb a
-0.3\tb </s>
-0.8\tb c

\\3-grams:
-0.1\t<s> a b
-0.35\ta b c

\\end\\
"""


def reference(text: str, history: list[str], word: str) -> float:
    """Return log P(word | history), natural, by the definition of back-off, from the text of an ARPA file."""
    logp, backoff = _tables(text)
    order = max(map(len, logp))
    word = word if (word,) in logp else "<unk>"
    history = [each if (each,) in logp else "<unk>" for each in history][max(0, len(history) - order + 1) :]

    def recurse(context: tuple[str, ...]) -> float:
        if (*context, word) in logp:
            return logp[*context, word]
        return backoff.get(context, 0.0) + recurse(context[1:])

    return recurse(tuple(history)) * math.log(10)


def _tables(text: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    logp, backoff = {}, {}
    for line in text.splitlines():
        values = line.split("\t")
        if len(values) > 1:
            words = tuple(values[1].split(" "))
            logp[words] = float(values[0])
            if len(values) == 3:
                backoff[words] = float(values[2])
    return logp, backoff
