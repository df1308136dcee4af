"""Hotwords: listed words and phrases that the search favors, each with a score (docs/context.md)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.constants import BLANK, MAX_HOTWORD_SCORE, SPACE
from residualformer.context.phrases import START, PhraseMachine, Step, as_read, with_boundaries
from residualformer.context.scorer import Array, Context, Scorer
from residualformer.errors import UserError, closest
from residualformer.files import read_text, split_lines

NUM_SPECIAL = 2  # blank and unknown come first among the pieces
MOST_CHARACTERS = 1000  # of a phrase; the automaton holds each of its beginnings
TABLE_VALUES = 2**24  # scores that are remembered: 128 MB with the nodes that they lead to


@dataclass(frozen=True)
class Phrase:
    """A listed phrase; `score` in nats per character, None for the default."""

    text: str
    score: float | None = None


def read_phrase(line: str, where: str = "hotword") -> Phrase:
    """Read `PHRASE` or `PHRASE :1.5`, as sherpa-onnx writes them.

    Raises:
        UserError: there is no phrase, or the score is no number above 0 and up to `MAX_HOTWORD_SCORE`.
    """
    text, colon, score = line.rpartition(" :")
    phrase = Phrase(" ".join((text if colon else line).split()))
    if not phrase.text:
        raise UserError(f"{where} '{line}' has no words: write PHRASE or PHRASE :SCORE.")
    if not colon:
        return phrase
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_HOTWORD_SCORE:
        raise UserError(
            f"{where} '{line}': the score '{score}' is no number above 0 and up to {MAX_HOTWORD_SCORE:g}: write "
            "PHRASE :1.5, for example."
        )
    return Phrase(phrase.text, value)


def read_phrases(path: Path | str) -> list[Phrase]:
    """Read a file with one phrase per line, skipping empty lines; UserError for a line that is no phrase."""
    lines = enumerate(split_lines(read_text(path, "give a text file with one word or phrase per line")), start=1)
    return [read_phrase(line.strip(), f"{path}, line {number}:") for number, line in lines if line.strip()]


class Hotwords(Context):
    """Listed phrases with scores, for any number of streams.

    A phrase earns its score for each character. While it is only partly written, its characters so far count; they are
    taken back if the match fails. How the model's tokens divide the phrase makes no difference. Only whole words match:
    "ANN" adds nothing to "ANNOUNCE". See `phrases.py` for overlaps.

    Example::

        hotwords = Hotwords([Phrase("ANN ARBOR"), Phrase("YPSILANTI", 1.0)], pieces, score=0.5)
        stream = recognizer.create_stream(hotwords)

    Args:
        phrases: of a phrase that is listed twice the last score counts.
        pieces: the text of each token, in the numbering of training: blank and unknown come first.
        score: nats per character of a phrase that has no score of its own.

    Raises:
        UserError: there is no phrase, or one is too long or has a character that the model cannot write.
    """

    def __init__(self, phrases: Iterable[Phrase], pieces: Sequence[str], score: float) -> None:
        self.phrases = {phrase.text: score if phrase.score is None else phrase.score for phrase in phrases}
        if not self.phrases:
            raise UserError("there are no hotwords: give at least one, or leave the option out.")
        characters = set("".join(pieces[NUM_SPECIAL:])) - {SPACE}
        for text in self.phrases:
            _check_text(text, characters)
        totals = {as_read(text): value * len(text) for text, value in self.phrases.items()}
        self._scorer = TableScorer(PhraseMachine(totals), pieces)

    def scorer(self) -> Scorer:
        return self._scorer  # which keeps nothing about streams

    def describe(self) -> dict[str, Any]:
        return {"hotwords": dict(sorted(self.phrases.items()))}


class TableScorer(Scorer):
    """The scorer of a `PhraseMachine`; a state is one of its nodes.

    The scores (V,) after a node, and the nodes (V,) that the tokens lead to, are computed when they are first needed.
    """

    def __init__(self, machine: PhraseMachine, pieces: Sequence[str], most_values: int = TABLE_VALUES) -> None:
        self._machine = machine
        self._most_rows = max(1, most_values // len(pieces))
        self._texts = ["", "\0", *(with_boundaries(piece) for piece in pieces[NUM_SPECIAL:])]
        self._by_first: dict[str, list[int]] = {}
        for token, text in enumerate(self._texts[1:], start=1):
            self._by_first.setdefault(text[0], []).append(token)
        self._row_of = np.full(machine.num_nodes, -1, np.int64)  # of each node, -1: not yet worked out
        self._scores = np.empty((0, len(pieces)), np.float32)
        self._nodes = np.empty((0, len(pieces)), np.int32)
        self._num_rows = 0
        self._ends = np.array([machine.end(node) for node in range(machine.num_nodes)], np.float32)
        # The rest of each token after a first character that begins or continues no phrase, and after a space.
        self._inside, self._start = self._rest(0, self._texts), self._rest(START, self._texts)

    def start(self) -> int:
        return START

    def scores(self, states: Array) -> Array:
        rows = self._rows(states)  # which may make the tables larger
        return self._scores[rows]

    def advance(self, states: Array, labels: Array) -> Array:
        rows = self._rows(states)
        return self._nodes[rows, labels].astype(np.int64)

    def final(self, states: Array) -> Array:
        return self._ends[states]

    def _rows(self, states: Array) -> Array:
        """Return the rows (M,) of nodes in the tables, after computing those that are missing."""
        rows = self._row_of[states]
        if rows.size and rows.min() < 0:
            missing = np.unique(states[rows < 0])
            if self._num_rows + len(missing) > self._most_rows:  # forget, and remember what is needed now
                self._row_of[:] = -1
                self._num_rows, missing = 0, np.unique(states)
            for node in missing.tolist():
                self._add_row(node)
            rows = self._row_of[states]
        return rows

    def _add_row(self, node: int) -> None:
        if self._num_rows == len(self._scores):
            size = max(64, 2 * len(self._scores))
            self._scores, self._nodes = (_grown(table, size) for table in (self._scores, self._nodes))
        row, self._num_rows = self._num_rows, self._num_rows + 1
        self._row_of[node] = row
        scores, nodes, machine = self._scores[row], self._nodes[row], self._machine
        failed = machine.step(node, "\0")  # like any character that continues no phrase
        nodes[:], scores[:] = self._inside[0], self._inside[1] + failed.added
        for character in {SPACE, *machine.characters_after(node)} & self._by_first.keys():
            tokens, first = self._by_first[character], machine.step(node, character)
            if first.node == START:
                nodes[tokens], scores[tokens] = self._start[0][tokens], self._start[1][tokens] + first.added
                continue
            after = self._rest(first.node, [self._texts[token] for token in tokens])
            nodes[tokens], scores[tokens] = after[0], after[1] + first.added
        nodes[BLANK], scores[BLANK] = node, 0.0

    def _rest(self, node: int, texts: Sequence[str]) -> tuple[Array, Array]:
        """Return nodes and scores after reading each text, without its first character, from `node`."""
        steps: list[Step] = [self._machine.read(node, text[1:]) for text in texts]
        return np.array([s.node for s in steps], np.int32), np.array([s.added for s in steps], np.float32)


def _grown(table: Array, size: int) -> Array:
    grown = np.empty((size, table.shape[1]), table.dtype)
    grown[: len(table)] = table
    return grown


def _check_text(text: str, characters: set[str]) -> None:
    """Raise UserError for a phrase that is too long, or has a character that the model cannot write."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"hotword '{text:.40} ...' has {len(text)} characters; allowed are {MOST_CHARACTERS}: list shorter phrases."
        )
    strange = next((c for c in text if c != " " and c not in characters), None)
    if strange is not None:
        raise UserError(f"hotword '{text}': the model writes no '{strange}'.{_advice(text, strange, characters)}")


def _advice(text: str, strange: str, characters: set[str]) -> str:
    """Return " Did you mean '...'?" with the phrase, or the character, in a spelling that the model knows."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    for other in (text.upper(), text.lower(), plain, plain.upper(), plain.lower()):
        if set(other) - {" "} <= characters:
            return f" Did you mean '{other}'?"
    return closest(strange, characters) or f" It knows: {' '.join(sorted(characters)[:60])}"
