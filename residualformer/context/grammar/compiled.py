"""Grammars compiled for the tokens of a model, and their files."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.constants import SPACE
from residualformer.context.grammar.automaton import Automaton, determinize
from residualformer.context.grammar.network import ANY_WORD, END, START, Network, Slot, build
from residualformer.context.grammar.source import read_source
from residualformer.context.pieces import FIRST, Pieces
from residualformer.context.scorer import Array
from residualformer.errors import UserError
from residualformer.files import digest, read_checked_json, write_checked_json
from residualformer.records import read_dataclass

SUFFIX = ".json"  # of compiled grammars
FORMAT = 1
_ADVICE = "compile the grammar again (residualformer grammar FILE --model MODEL --out FILE)"


@dataclass(frozen=True)
class Grammar:
    """What may be said, as words and as tokens of a model.

    network: over words, in the case of the model. automaton: over tokens in the numbering of training, blank is 0.
    vocab_size: V. pieces: a check sum of the model's pieces but blank and unknown. reject: the distance that suits this
    grammar and this model, if it was tuned (see `GrammarContext`).
    """

    network: Network
    automaton: Automaton
    vocab_size: int
    pieces: str
    reject: float | None = None

    def save(self, path: Path) -> None:
        """Write the grammar to a JSON file, which is read without kaldifst."""
        write_checked_json(path, self._to_dict() | {"reject": self.reject})

    @property
    def check_sum(self) -> str:
        """The same for equal grammars only, however they were tuned."""
        return digest(self._to_dict())

    def _to_dict(self) -> dict[str, Any]:
        network, automaton = self.network, self.automaton
        return {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pieces": self.pieces,
            "words": list(network.words),
            "slots": [{"name": slot.name, "numbers": slot.numbers} for slot in network.slots],
            "network": [_packed(part) for part in (network.sources, network.labels, network.targets)],
            "automaton": [
                _packed(part) for part in (automaton.offsets, automaton.labels, automaton.targets, automaton.final)
            ],
        }


def load_grammar(path: Path, pieces: list[str]) -> Grammar:
    """Return the grammar of a file for a model, compiled if it is not yet.

    Args:
        path: sentences, YAML, or what `Grammar.save` wrote for this model (.json).
        pieces: of the model, in the numbering of training.

    Raises:
        UserError: the file is missing, wrong or damaged, or compiled for other tokens; a word has no tokens.
    """
    if path.suffix.lower() != SUFFIX:
        return compile_network(build(read_source(path)), pieces)
    value = read_checked_json(path, _ADVICE)
    try:
        grammar = _unpacked(value)
        _check(grammar)
    except ValueError as error:
        raise UserError(f"{path} is no compiled grammar ({error}): {_ADVICE}.") from error
    if grammar.pieces != digest(pieces[FIRST:]):
        raise UserError(f"{path} is compiled for a model with other tokens: {_ADVICE}.")
    return grammar


def compile_network(network: Network, pieces: list[str]) -> Grammar:
    """Return the grammar of a network for a model's pieces; UserError for a word without tokens."""
    tokens = Pieces(pieces)
    network = _in_their_case(network, tokens)
    automaton = determinize(*_token_arcs(network, tokens))
    return Grammar(network, automaton, len(pieces), digest(pieces[FIRST:]))


def _in_their_case(network: Network, tokens: Pieces) -> Network:
    """Write the words as the model does."""
    written = [tokens.in_their_case(word) if n > ANY_WORD else word for n, word in enumerate(network.words)]
    number = {word: n for n, word in enumerate(dict.fromkeys(written))}
    same = np.array([number[word] for word in written], np.int32)
    labels = np.where(network.labels > 0, same[np.maximum(network.labels, 0)], network.labels)
    slots = tuple(
        Slot(slot.name, {tokens.in_their_case(text): n for text, n in slot.numbers.items()}) for slot in network.slots
    )
    return replace(network, labels=labels, words=tuple(number), slots=slots)


def _token_arcs(network: Network, tokens: Pieces) -> tuple[Array, Array, Array, int, int, int]:
    """Return the arguments of `determinize`: each word is a chain of its tokens.

    Where the first word of a sentence has other tokens than the same word later, each state of the network is two: 2 s
    before the first word, 2 s + 1 after it.
    """
    builder = _TokenArcs(tokens, 2 * network.num_states)
    rows = zip(network.sources.tolist(), network.labels.tolist(), network.targets.tolist(), strict=True)
    for source, label, target in rows:
        for begun in (0, 1):
            start = 2 * source + begun
            if label == ANY_WORD:
                builder.any_word(start, 2 * target + 1, first=not begun)
            elif label > 0:
                builder.word(network.words[label], start, 2 * target + 1, first=not begun)
            else:
                builder.arcs.append((start, 0, 2 * target + begun))
    builder.arcs.append((2 * END, 0, 2 * END + 1))  # the empty sentence
    sources, labels, targets = np.array(builder.arcs, np.int64).T
    return sources, labels, targets, builder.num_states, 2 * START, 2 * END + 1


class _TokenArcs:
    """The arcs of words; between them are states of their own."""

    def __init__(self, tokens: Pieces, num_states: int) -> None:
        self.tokens, self.num_states = tokens, num_states
        self.arcs: list[tuple[int, int, int]] = []
        self.ends = [token for piece, token in tokens.ids.items() if not piece.startswith(SPACE)]
        self.begins = [token for piece, token in tokens.ids.items() if piece.startswith(SPACE) and len(piece) > 1]

    def word(self, word: str, start: int, end: int, first: bool) -> None:
        """Add the tokens of a word, as the model's tokenizer divides it."""
        ids = self.tokens.encode(word, first)
        states = [start, *(self._state() for _ in ids[1:]), end]
        self.arcs += zip(states, ids, states[1:], strict=False)

    def any_word(self, start: int, end: int, first: bool) -> None:
        """Add all sequences of tokens that make one word."""
        inside = self._state()
        before = start
        if not first or self.tokens.is_bpe:
            before = self._state()
            self.arcs += [(start, self.tokens.ids[SPACE], before)] if SPACE in self.tokens.ids else []
            self.arcs += [(start, token, inside) for token in self.begins]
        self.arcs += [(before, token, inside) for token in self.ends]
        self.arcs += [(inside, token, inside) for token in self.ends]
        self.arcs.append((inside, 0, end))

    def _state(self) -> int:
        self.num_states += 1
        return self.num_states - 1


@dataclass(frozen=True)
class _Content:
    """What a file holds; arrays are little-endian int32 in base64."""

    format: int
    vocab_size: int
    pieces: str
    words: list[str]
    slots: list[Slot]
    network: list[str]
    automaton: list[str]
    reject: float | None


def _packed(array: Array) -> str:
    return base64.b64encode(array.astype("<i4").tobytes()).decode("ascii")


def _unpacked(value: dict[str, Any]) -> Grammar:
    """Return the grammar of a file's content; ValueError if it is none."""
    found = read_dataclass(_Content, value)
    if found.format != FORMAT:
        raise ValueError(f"its format is {found.format}, this version reads {FORMAT}")
    arrays = [np.frombuffer(base64.b64decode(text, validate=True), "<i4") for text in found.network + found.automaton]
    sources, labels, targets, offsets, tokens, states, final = arrays
    network = Network(sources, labels, targets, tuple(found.words), tuple(found.slots))
    automaton = Automaton(offsets.astype(np.int64), tokens, states, final.astype(bool))
    return Grammar(network, automaton, found.vocab_size, found.pieces, found.reject)


def _check(grammar: Grammar) -> None:
    """Raise ValueError if numbers of a grammar point nowhere."""
    network, automaton = grammar.network, grammar.automaton
    num_arcs, num_states = len(automaton.labels), automaton.num_states
    fits = (
        len(network.sources) == len(network.labels) == len(network.targets)
        and len(automaton.offsets) == num_states + 1 >= 2
        and len(automaton.targets) == num_arcs
        and automaton.offsets[0] == 0
        and automaton.offsets[-1] == num_arcs
        and (np.diff(automaton.offsets) >= 0).all()
        and _within(network.labels, -2 * len(network.slots), len(network.words))
        and _within(np.concatenate([network.sources, network.targets]), 0, 2 * len(network.sources) + 2)
        and _within(automaton.labels, FIRST, grammar.vocab_size)
        and _within(automaton.targets, 0, num_states)
        and (grammar.reject is None or grammar.reject >= 0)
    )
    if not fits:
        raise ValueError("its numbers do not fit together")


def _within(values: Array, least: int, below: int) -> bool:
    return bool(((least <= values) & (values < below)).all())
