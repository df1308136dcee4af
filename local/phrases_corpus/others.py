"""Speech that is not of a grammar: other sentences, and its own with a wrong word.

A model that was trained on nothing but the phrases hears them in everything; it learns here what else may be said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from local.mini_corpus.grammar import draw_sentence
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines

BUILT_IN = 3000  # sentences of mini's grammar that are drawn
MOST_WORDS = 12


def other_sentences(file: Path | None, upper: bool, rng: np.random.Generator) -> list[str]:
    """Return different sentences of a file, one a line, or of mini's grammar, in one case and random order.

    Raises:
        UserError: the file is missing or empty.
    """
    if file is None:
        texts = [draw_sentence(rng).text for _ in range(BUILT_IN)]
    else:
        texts = [
            " ".join(line.split()) for line in split_lines(read_text(file, "give a file of sentences, one a line"))
        ]
    kept = [text.upper() if upper else text.lower() for text in texts if 0 < len(text.split()) <= MOST_WORDS]
    if not kept:
        raise UserError(f"{file} holds no sentence of {MOST_WORDS} words or fewer: write one a line.")
    different = list(dict.fromkeys(kept))
    return [different[number] for number in rng.permutation(len(different))]


def near_misses(
    phrases: Sequence[str], words: Sequence[str], accepts: Callable[[str], bool], rng: np.random.Generator
) -> Iterator[str]:
    """Yield sentences without end that differ from one of the phrases in a word, and that a grammar does not accept."""
    tries = 0
    while True:
        changed = phrases[rng.integers(len(phrases))].split()
        changed[rng.integers(len(changed))] = words[rng.integers(len(words))]
        text = " ".join(changed)
        tries += 1
        if not accepts(text):
            tries = 0
            yield text
        elif tries > 1000:  # such as a grammar of any words
            raise UserError("the grammar accepts nearly everything, so that there is nothing to reject: narrow it.")
