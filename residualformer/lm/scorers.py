"""N-gram models as scorers of a search, over tokens or over words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from residualformer.constants import BLANK, SPACE
from residualformer.context.scorer import Array, Context, Scorer
from residualformer.lm.ngram import UNKNOWN, NGramModel

CACHE_BYTES = 1 << 25  # of rows of scores that are kept


class TokenNGram(Scorer, Context):
    """An n-gram model over tokens, in natural logarithms; a state is a node of the model.

    It keeps nothing about streams, so all share it.

    Args:
        pieces: the text of each label, in the order of their ids.
    """

    def __init__(self, model: NGramModel, pieces: Sequence[str]) -> None:
        self.model = model
        self._words = np.array([model.ids.get(piece, model.unknown) for piece in pieces], np.int64)
        self._rows: dict[int, Array] = {}
        self._most = max(64, CACHE_BYTES // (4 * len(pieces)))

    def scorer(self) -> Scorer:
        return self

    def describe(self) -> dict[str, Any]:
        return {"ngram": {"unit": "token", "order": self.model.order, "digest": self.model.digest()}}

    def start(self) -> int:
        return self.model.first_state

    def scores(self, states: Array) -> Array:
        rows = [self._row(state) for state in states.tolist()]
        return np.array(rows, np.float32).reshape(len(rows), len(self._words))

    def advance(self, states: Array, labels: Array) -> Array:
        return self.model.next_states(states, self._words[labels])

    def final(self, states: Array) -> Array:
        ends = np.full(len(states), self.model.end)
        return self.model.log_probabilities(states, ends).astype(np.float32)

    def _row(self, state: int) -> Array:
        """Return log P(label) (V,) after `state`; the rows used last are kept."""
        row = self._rows.pop(state, None)
        if row is None:
            row = self.model.row(state)[self._words].astype(np.float32)
            row[BLANK] = 0
            if len(self._rows) >= self._most:  # the one that was used longest ago goes
                del self._rows[next(iter(self._rows))]
        self._rows[state] = row
        return row


class WordNGram(Context):
    """An n-gram model over words, in natural logarithms, for labels that spell them.

    The score of a word is added when it ends: by a label that begins the next one, or at the end of the utterance. A
    word is known by its letters, however it is split into labels. There is no look-ahead into a word that is begun.

    Args:
        pieces: the text of each label, in the order of their ids; a visible space in it begins a word.
    """

    def __init__(self, model: NGramModel, pieces: Sequence[str]) -> None:
        self.model, self.pieces = model, list(pieces)
        spaces = np.array([label != BLANK and SPACE in piece for label, piece in enumerate(pieces)])
        inner = np.array([bool(spaces[label]) and SPACE in piece[1:] for label, piece in enumerate(pieces)])
        self.begins = spaces & ~inner & np.array([piece.startswith(SPACE) for piece in pieces])
        self.other = np.flatnonzero(spaces & ~self.begins).tolist()  # they end a word of their own; rare

    def scorer(self) -> Scorer:
        return _Words(self)

    def describe(self) -> dict[str, Any]:
        return {"ngram": {"unit": "word", "order": self.model.order, "digest": self.model.digest()}}

    def ended(self, states: Sequence[tuple[int, str]]) -> list[tuple[float, int]]:
        """Return log P(word | history) of histories and words, and the histories after them; no word, no change."""
        histories = np.array([history for history, _ in states], np.int64)
        ids = np.array([self.model.ids.get(word, self.model.unknown) for _, word in states], np.int64)
        scores, after = self.model.log_probabilities(histories, ids), self.model.next_states(histories, ids)
        found = zip(states, scores.tolist(), after.tolist(), strict=True)
        return [(score, new) if word else (0.0, history) for (history, word), score, new in found]

    def write(self, history: int, word: str, label: int) -> tuple[float, int, str]:
        """Return the score of a label, and history and begun word after it."""
        total = 0.0
        first, *rest = self.pieces[label].split(SPACE)
        word += first
        for part in rest:
            [(score, history)] = self.ended([(history, word)])
            total, word = total + score, part
        return total, history, word


class _Words(Scorer):
    """The scorer of a stream: a state stands for the history of whole words and the letters of the word begun."""

    def __init__(self, shared: WordNGram) -> None:
        self.shared = shared
        first = (shared.model.first_state, "")
        self._states = {0: first}
        self._numbers = {first: 0}
        self._ended: dict[int, tuple[float, int]] = {}  # score and history of a state whose word ends
        self._next = 1

    def start(self) -> int:
        return 0

    def scores(self, states: Array) -> Array:
        shared = self.shared
        scores = np.zeros((len(states), len(shared.pieces)), np.float32)
        ended = self._end(states.tolist())
        scores[:, shared.begins] = np.array([score for score, _ in ended], np.float32)[:, None]
        for label in shared.other:
            scores[:, label] = [shared.write(*self._states[state], label)[0] for state in states.tolist()]
        return scores

    def advance(self, states: Array, labels: Array) -> Array:
        found, pieces, begins = [], self.shared.pieces, self.shared.begins
        ended = self._end(states.tolist())
        for state, label, (_, after) in zip(states.tolist(), labels.tolist(), ended, strict=True):
            history, word = self._states[state]
            if begins[label]:
                history, word = after, pieces[label][1:]
            elif label in self.shared.other:
                _, history, word = self.shared.write(history, word, label)
            else:
                word += pieces[label]
            found.append(self._number((history, word)))
        return np.array(found, np.int64)

    def final(self, states: Array) -> Array:
        model, ended = self.shared.model, self._end(states.tolist())
        histories = np.array([history for _, history in ended], np.int64)
        scores = np.array([score for score, _ in ended])
        return (scores + model.log_probabilities(histories, np.full(len(states), model.end))).astype(np.float32)

    def keep(self, states: Array) -> None:
        self._states = {state: self._states[state] for state in {0, *states.tolist()}}
        self._numbers = {value: state for state, value in self._states.items()}
        self._ended = {state: found for state, found in self._ended.items() if state in self._states}

    def _end(self, states: list[int]) -> list[tuple[float, int]]:
        """Return score and history of each state if its word ends there."""
        if missing := [state for state in dict.fromkeys(states) if state not in self._ended]:
            found = self.shared.ended([self._states[state] for state in missing])
            self._ended.update(zip(missing, found, strict=True))
        return [self._ended[state] for state in states]

    def _number(self, state: tuple[int, str]) -> int:
        number = self._numbers.get(state)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[state], self._states[number] = number, state
        return number


def is_of_tokens(model: NGramModel, pieces: Sequence[str]) -> bool:
    """Return whether all words of a model, unknown, start and end aside, are among the pieces of labels."""
    special = {model.start, model.end, model.unknown}
    return {word for number, word in enumerate(model.words) if number not in special} <= {*pieces, UNKNOWN}


def can_be_spelled(model: NGramModel, pieces: Sequence[str]) -> bool:
    """Return whether any word of a model consists of characters that labels can write."""
    letters = set("".join(pieces[2:])) - {SPACE}
    special = {model.start, model.end, model.unknown}
    return any(set(word) <= letters for number, word in enumerate(model.words) if number not in special)
