"""Listed phrases as an automaton over characters, which scores a text while it is read.

A text is read from left to right. At the start of each word the automaton looks for the longest listed phrase there. If
the phrase is complete, and a word ends with it, its score is earned, and reading goes on behind it. If the text so far
ends within the phrase, the phrase is open: a share of its score, by the characters read, counts until it is complete or
fails. A phrase that fails gives its share back, and no character counts for two phrases.

A word begins and ends at a space, written `▁`. Each character of a script without spaces is a word.
This is the automaton of Aho and Corasick (1975) with phrases that end only where words end.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from residualformer.constants import HAN_AND_KANA, SPACE

INSIDE, START = 0, 1  # nodes: inside a word with no open phrase, and at the start of a word
WITHOUT_SPACES = (*HAN_AND_KANA, "THAI", "LAO", "KHMER", "MYANMAR")  # scripts, as names of characters begin


class Step(NamedTuple):
    """The node after some characters, and what they add to the score, in nats."""

    node: int
    added: float


def with_boundaries(text: str) -> str:
    """Return `text` with a space before and after each character of a script without spaces."""
    return "".join(f"{SPACE}{c}{SPACE}" if unicodedata.name(c, "").startswith(WITHOUT_SPACES) else c for c in text)


def as_read(text: str) -> str:
    """Return a phrase as the machine reads it: each word with a space before it, and none at the end."""
    words = with_boundaries(text.replace(" ", SPACE)).split(SPACE)
    return "".join(SPACE + word for word in words if word)


class PhraseMachine:
    """The automaton of a list of phrases. A node stands for an open beginning of phrases, of the best of which it has
    the share of the score.

    Args:
        scores: what each phrase, spelled by `as_read`, earns, in nats; above 0.
    """

    def __init__(self, scores: Mapping[str, float]) -> None:
        self._scores = dict(scores)
        self._texts = ["", SPACE]
        self._nodes = {SPACE: START}
        self._share = [0.0, 0.0]  # of each node: the part of the score that counts while it is open
        self._children: list[list[str]] = [[], []]
        for phrase, score in self._scores.items():
            for size in range(2, len(phrase) + 1):
                self._add(phrase[:size], score * (size - 1) / (len(phrase) - 1))
        self._failures = [Step(INSIDE, 0.0)] * 2 + [self._fail(node) for node in range(2, len(self._texts))]
        self._closures = [Step(START, 0.0)] * 2 + [self._close(node) for node in range(2, len(self._texts))]

    @property
    def num_nodes(self) -> int:
        """The number of nodes, numbered from 0."""
        return len(self._texts)

    def step(self, node: int, character: str) -> Step:
        """Return the step from `node` by one character, which may be a space."""
        added = 0.0
        while node != INSIDE:
            text = self._texts[node]
            if (child := self._nodes.get(text + character)) is not None:
                return Step(child, added + self._share[child] - self._share[node])
            if character == SPACE:
                break
            node, more = self._failures[node]
            added += more
        if character != SPACE:
            return Step(INSIDE, added)
        if self._texts[node].endswith(SPACE):  # two spaces are one
            return Step(node, added)
        closed, more = self._closures[node]
        return Step(closed, added + more)

    def read(self, node: int, text: str) -> Step:
        """Return the step from `node` by all characters of `text`."""
        added = 0.0
        for character in text:
            node, more = self.step(node, character)
            added += more
        return Step(node, added)

    def characters_after(self, node: int) -> set[str]:
        """Return the characters, other than the space, that leave a phrase open after `node`."""
        found: set[str] = set()
        while node != INSIDE:
            found.update(self._children[node])
            node = self._failures[node].node
        return found - {SPACE}

    def end(self, node: int) -> float:
        """Return what is added when the text ends at `node`."""
        return self._scan(self._texts[node] + SPACE, ended=True)[1] - self._share[node]

    def _add(self, text: str, share: float) -> None:
        node = self._nodes.setdefault(text, len(self._texts))
        if node == len(self._texts):
            self._texts.append(text)
            self._share.append(0.0)
            self._children.append([])
            self._children[self._nodes[text[:-1]]].append(text[-1])
        self._share[node] = max(self._share[node], share)

    def _fail(self, node: int) -> Step:
        """Return the step to the phrase that is still open when a letter does not continue that of `node`."""
        text = self._texts[node]
        place, earned = self._pass_one(text, 0)
        left, more = self._scan(text[place:], ended=False) if place < len(text) else ("", 0.0)
        return self._to(left, earned + more - self._share[node])

    def _close(self, node: int) -> Step:
        """Return the step by a space that does not continue the phrase of `node`."""
        left, earned = self._scan(self._texts[node] + SPACE, ended=False)
        return self._to(left, earned - self._share[node])

    def _to(self, text: str, added: float) -> Step:
        node = self._nodes.get(text, INSIDE)
        return Step(node, added + self._share[node])

    def _scan(self, text: str, ended: bool) -> tuple[str, float]:
        """Read `text`, which begins with a space; return the open phrase at its end and what was earned before it."""
        place, earned = 0, 0.0
        while place < len(text):
            if not ended and text[place:] in self._nodes:
                return text[place:], earned
            place, more = self._pass_one(text, place)
            earned += more
        return "", earned

    def _pass_one(self, text: str, place: int) -> tuple[int, float]:
        """Read the longest phrase at `place`, or a word; return the place of the space after it and what it earns."""
        ends = [end for end in range(place + 1, len(text)) if text[end] == SPACE]
        for end in reversed(ends):
            if (score := self._scores.get(text[place:end])) is not None:
                return end, score
        return (ends[0] if ends else len(text)), 0.0
