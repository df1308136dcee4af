"""Sentences to train a language model on, or to measure it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.files import read_text, split_lines
from residualformer.lm.perplexity import Perplexity

MOST_CHARACTERS = 10_000  # of a sentence; a network would hold all of it at once
ADVICE = "give a text file, a sentence a line"


def read_sentences(path: Path) -> list[str]:
    """Return the single-spaced lines of a text file that are not empty.

    Raises:
        UserError: the file is missing or no text, there is no such line, or one is longer than any sentence.
    """
    lines = [" ".join(line.split()) for line in split_lines(read_text(path, ADVICE))]
    if not any(lines):
        raise UserError(f"{path} holds no text: {ADVICE}.")
    for number, line in enumerate(lines, start=1):
        if len(line) > MOST_CHARACTERS:
            raise UserError(
                f"{path}, line {number} has {len(line)} characters; allowed are {MOST_CHARACTERS}: {ADVICE}."
            )
    return [line for line in lines if line]


def count_words(sentences: Sequence[str]) -> int:
    """Return the number of words between spaces."""
    return sum(len(sentence.split()) for sentence in sentences)


def unknown_share(tokenizer: Tokenizer, sentences: Sequence[Sequence[int]]) -> float:
    """Return the share of unknown tokens."""
    total = sum(map(len, sentences))
    return sum(list(labels).count(tokenizer.unk_id) for labels in sentences) / max(total, 1)


def describe(measured: Perplexity, unknown: float) -> str:
    """Return perplexities as words."""
    text = f"perplexity {measured.per_token:.3f} per token, {measured.per_word:.2f} per word"
    text += f" ({measured.sentences} sentences, {measured.words} words, {measured.tokens} tokens)"
    return text + (f", {unknown:.1%} of the tokens unknown: is it of the same script and case?" if unknown else "")
