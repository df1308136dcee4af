"""The syntax tree of a grammar, and the parser of its sentences.

sentence    = sequence { "|" sequence }
sequence    = { item }
item        = WORD | "[" sentence "]" | "(" sentence ")" | "{" SLOT [ "=" RULE ] "}" | "<" RULE ">"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from residualformer.errors import UserError

ANY = "any"  # the rule that every grammar has: one word, whatever it is
SYNTAX = "[](){}<>|"
NAME = re.compile(r"[^\W\d]\w*")
_TOKEN = re.compile(rf"\s*([{re.escape(SYNTAX)}=]|[^\s{re.escape(SYNTAX)}=]+)")
MOST_PARTS = 1000  # one after the other
TOO_DEEP = "parts lie too deep within each other: nest fewer brackets, and refer from rule to rule less often."
_CLOSING = {"[": "]", "(": ")", "{": "}", "<": ">"}


@dataclass(frozen=True)
class Place:
    """A line of a file, for messages."""

    path: Path
    line: int

    def error(self, sentence: str) -> UserError:
        """Return the error of this line."""
        return UserError(f"{self.path}, line {self.line}: {sentence}")


@dataclass(frozen=True)
class Word:
    """One word."""

    text: str
    place: Place


@dataclass(frozen=True)
class Sequence:
    """Its parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """One of its options."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Its part, from `least` to `most` times; None: as often as one likes."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Numbers:
    """One of some numbers, each with the ways to say it."""

    spoken: dict[int, Node]


@dataclass(frozen=True)
class Reference:
    """A rule of the grammar, whose words fill the slot of that name, if there is one."""

    rule: str
    slot: str | None
    place: Place


Node = Word | Sequence | Choice | Repeat | Numbers | Reference

EMPTY = Sequence(())


def parse_sentence(text: str, place: Place) -> Node:
    """Return the tree of a sentence; UserError for a bracket that is not closed, a missing name and the like."""
    return _Parser(text, place).parse()


class _Parser:
    def __init__(self, text: str, place: Place) -> None:
        self.tokens, self.place, self.position = _TOKEN.findall(text.strip()), place, 0

    def parse(self) -> Node:
        tree = self._alternatives()
        if self.position < len(self.tokens):
            raise self.place.error(f"'{self.tokens[self.position]}' closes nothing: remove it.")
        return tree

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._peek() == "|":
            self.position += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (token := self._peek()) is not None and token not in "|])":
            parts.append(self._item(token))
            if len(parts) > MOST_PARTS:  # as many optional ones make automata of that many states squared
                raise self.place.error(f"a sentence has more than {MOST_PARTS} parts: say less at once.")
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _item(self, token: str) -> Node:
        self.position += 1
        if token in ("[", "("):
            inside = self._alternatives()
            self._expect(token)
            return Choice((inside, EMPTY)) if token == "[" else inside
        if token == "{":
            slot = rule = self._name(token)
            if self._peek() == "=":
                self.position += 1
                rule = self._name(token)
            self._expect(token)
            return Reference(rule, slot, self.place)
        if token == "<":
            rule = self._name(token)
            self._expect(token)
            return Reference(rule, None, self.place)
        if token in "}>=":
            raise self.place.error(f"'{token}' stands alone: slots are written {{slot}}, rules <rule>.")
        return Word(token, self.place)

    def _name(self, opening: str) -> str:
        token = self._peek()
        if token is None or not NAME.fullmatch(token):
            found = "nothing" if token is None else f"'{token}'"
            raise self.place.error(f"after '{opening}' comes {found}, not the name of a rule (letters, digits and _).")
        self.position += 1
        return token

    def _expect(self, opening: str) -> None:
        closing, token = _CLOSING[opening], self._peek()
        if token != closing:
            found = "the sentence ends" if token is None else f"'{token}' comes"
            raise self.place.error(f"'{opening}' is not closed: {found} where '{closing}' should be.")
        self.position += 1

    def _peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None
