"""Texts as engines read them, with single letters that are said by name."""

from __future__ import annotations

import html

from local.common.espeak import say_letter


def named(words: list[str], spelled: bool) -> list[bool]:
    """Return which words of a text in lower case are letters that are said by name.

    "a" and "i" alone are words; beside another single letter, or where letters are `spelled`, they are letters.
    """
    single = [len(word) == 1 and word.isalpha() for word in ["", *words, ""]]
    single[0] = single[-1] = False
    return [
        own and (spelled or word not in ("a", "i") or before or after)
        for word, before, own, after in zip(words, single, single[1:], single[2:], strict=False)
    ]


def as_ssml(text: str, spelled: bool = False) -> str:
    """Return a text as SSML in lower case."""
    words = text.lower().split()
    letters = named(words, spelled)
    return " ".join(say_letter(each) if own else html.escape(each, quote=False) for each, own in zip(words, letters))


def in_words(text: str, spelled: bool = False) -> str:
    """Return a text in lower case for engines that read what is written; alone "a" would be the article."""
    words = text.lower().split()
    return " ".join("eh" if each == "a" and own else each for each, own in zip(words, named(words, spelled)))
