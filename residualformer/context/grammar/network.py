"""A grammar as a non-deterministic automaton over words, which remembers slots."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from residualformer.context.grammar.automaton import determinize
from residualformer.context.grammar.source import Source
from residualformer.context.grammar.syntax import ANY, TOO_DEEP, Choice, Node, Numbers, Reference, Repeat, Word
from residualformer.context.grammar.syntax import Sequence as Parts
from residualformer.context.scorer import Array
from residualformer.context.verdict import SlotValue
from residualformer.errors import UserError

EMPTY, ANY_WORD = 0, 1  # labels: nothing, and any word; the words of the grammar have those from 2 on
START, END = 0, 1
MOST_ARCS = 1_000_000


@dataclass(frozen=True)
class Slot:
    """A part of a sentence that has a name; `numbers` are the values of a range of numbers by their words."""

    name: str
    numbers: dict[str, int]


@dataclass(frozen=True)
class Network:
    """Arcs from `sources` to `targets` (A,) with `labels` (A,); sentences lead from state START to state END.

    A label from 2 on is a word, the one of `words` at that place; ANY_WORD is any word; EMPTY nothing; -1 - 2 i opens
    slot i, and -2 - 2 i closes it.
    """

    sources: Array
    labels: Array
    targets: Array
    words: tuple[str, ...]  # without repetition; the first two are "" and "<any>"
    slots: tuple[Slot, ...]

    @cached_property
    def arcs(self) -> list[list[tuple[int, int]]]:
        """The arcs of each state, (label, target)."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.num_states)]
        rows = (self.sources.tolist(), self.labels.tolist(), self.targets.tolist())
        for source, label, target in zip(*rows, strict=True):
            found[source].append((label, target))
        return found

    @property
    def num_states(self) -> int:
        """The number of states; two at least."""
        return int(max(self.sources.max(initial=END), self.targets.max(initial=END))) + 1

    @property
    def num_words(self) -> int:
        """The number of different words."""
        return len(self.words) - 2

    def slots_of(self, text: str) -> dict[str, SlotValue | list[SlotValue]] | None:
        """Return what fills the slots of a sentence, by their names; None if the grammar does not have the sentence.

        A slot that is filled several times has a list. Where a sentence can be read in several ways, the reading with
        the alternatives that the grammar names first counts.
        """
        words = text.split()
        trace = self._read(words)
        return None if trace is None else self._fill(trace, words)

    def accepts(self, text: str) -> bool:
        """Return whether the grammar has a sentence."""
        return self._read(text.split()) is not None

    def samples(self, count: int, seed: int) -> Iterator[str]:
        """Yield random sentences: every alternative is as likely as the others of its kind."""
        generator = random.Random(seed)
        for _ in range(count):
            state, words = START, []
            while state != END:
                label, state = generator.choice(self.arcs[state])
                if label > 0:
                    words.append(self.words[label])
            yield " ".join(words)

    def _read(self, words: Sequence[str]) -> Any:
        """Return the labels on the first path of a sentence, as a chain (chain before, label), or None."""
        numbers = {word: i for i, word in enumerate(self.words) if i > ANY_WORD}
        present = self._reach({START: ()})
        for word in words:
            wanted = {ANY_WORD, numbers.get(word, ANY_WORD)}
            after: dict[int, Any] = {}
            for state, chain in present.items():
                for label, target in self.arcs[state]:
                    if label in wanted:
                        after.setdefault(target, (chain, label))
            present = self._reach(after)
        return present.get(END)

    def _reach(self, states: dict[int, Any]) -> dict[int, Any]:
        """Return `states` and those that are reached from them without a word, each with its chain, in order."""
        found: dict[int, Any] = {}
        for first, first_chain in states.items():
            stack = [(first, first_chain)]
            while stack:
                state, chain = stack.pop()
                if state in found:
                    continue
                found[state] = chain
                steps = [
                    (target, (chain, label) if label else chain) for label, target in self.arcs[state] if label < 1
                ]
                stack += reversed(steps)
        return found

    def _fill(self, chain: Any, words: Sequence[str]) -> dict[str, SlotValue | list[SlotValue]]:
        labels = []
        while chain:
            chain, label = chain
            labels.append(label)
        filled: dict[str, list[SlotValue]] = {}
        opened: list[int] = []
        position = 0
        for label in reversed(labels):
            if label > 0:
                position += 1
            elif label % 2:  # -1, -3, ...
                opened.append(position)
            else:
                slot, text = self.slots[-label // 2 - 1], " ".join(words[opened.pop() : position])
                filled.setdefault(slot.name, []).append(slot.numbers.get(text, text))
        return {name: values[0] if len(values) == 1 else values for name, values in filled.items()}


def build(source: Source) -> Network:
    """Return the automaton of a grammar; UserError if it is too large or too deep."""
    try:
        return _Builder(source).build()
    except RecursionError:
        raise UserError(f"the grammar's {TOO_DEEP}") from None


def count_sentences(network: Network) -> int | None:
    """Return the number of different sentences, None if they are without end; any one word counts as one."""
    labels = np.maximum(network.labels, EMPTY)
    arguments = network.sources, labels, network.targets, network.num_states, START, END
    return determinize(*arguments).count()


class _Builder:
    """Thompson's construction: each part of a grammar leads from one state to another."""

    def __init__(self, source: Source) -> None:
        self.rules = source.rules
        self.sentences = source.sentences
        self.arcs: list[tuple[int, int, int]] = []
        self.num_states = 2
        self.words = {"": EMPTY, f"<{ANY}>": ANY_WORD}
        self.slots: dict[tuple[str, str], int] = {}

    def build(self) -> Network:
        self._add(self.sentences, START, END)
        sources, labels, targets = np.array(self.arcs, np.int32).reshape(-1, 3).T
        slots = tuple(Slot(name, _values(self.rules.get(rule))) for name, rule in self.slots)
        return Network(sources, labels, targets, tuple(self.words), slots)

    def _add(self, node: Node, start: int, end: int) -> None:
        if isinstance(node, Word):
            self._arc(start, self.words.setdefault(node.text, len(self.words)), end)
        elif isinstance(node, Parts):
            self._chain(node.parts, start, end)
        elif isinstance(node, Choice):
            for option in node.options:
                self._add(option, self._fork(start), end)
        elif isinstance(node, Numbers):
            self._add(Choice(tuple(node.spoken.values())), start, end)
        elif isinstance(node, Repeat):
            self._repeat(node, start, end)
        else:
            self._refer(node, start, end)

    def _chain(self, parts: Sequence[Node], start: int, end: int) -> None:
        if not parts:
            self._arc(start, EMPTY, end)
            return
        states = [start, *(self._state() for _ in parts[1:]), end]
        for part, before, after in zip(parts, states, states[1:]):
            self._add(part, before, after)

    def _repeat(self, node: Repeat, start: int, end: int) -> None:
        last = self._state()
        self._chain([node.part] * node.least, start, last)
        if node.most is None:
            # A state of its own: what leads back to `last` must not lead back to a part before it.
            loop, after = self._fork(last), self._state()
            self._add(node.part, self._fork(loop), after)
            self._arc(after, EMPTY, loop)
            self._arc(loop, EMPTY, end)
            return
        for _ in range(node.most - node.least):
            after = self._state()
            self._add(node.part, self._fork(last), after)
            self._arc(last, EMPTY, end)
            last = after
        self._arc(last, EMPTY, end)

    def _refer(self, node: Reference, start: int, end: int) -> None:
        first, last = start, end
        slot = 0
        if node.slot is not None:
            slot = self.slots.setdefault((node.slot, node.rule), len(self.slots))
            first, last = self._state(), self._state()
            self._arc(start, -1 - 2 * slot, first)
            self._arc(last, -2 - 2 * slot, end)
        if node.rule == ANY:
            self._arc(first, ANY_WORD, last)
        else:
            self._add(self.rules[node.rule], first, last)

    def _arc(self, start: int, label: int, end: int) -> None:
        if len(self.arcs) == MOST_ARCS:
            raise UserError(f"the grammar has more than {MOST_ARCS} arcs: use smaller ranges, or fewer repeats.")
        self.arcs.append((start, label, end))

    def _fork(self, start: int) -> int:
        """Return a new state after `start`, so that what begins there is one arc among its alternatives."""
        state = self._state()
        self._arc(start, EMPTY, state)
        return state

    def _state(self) -> int:
        self.num_states += 1
        return self.num_states - 1


def _values(rule: Node | None) -> dict[str, int]:
    """Return the number that each of the sentences of a rule of numbers says."""
    if not isinstance(rule, Numbers):
        return {}
    return {text: number for number, spoken in rule.spoken.items() for text in _texts(spoken)}


def _texts(node: Node) -> list[str]:
    """Return the sentences of a tree of words, sequences and choices."""
    if isinstance(node, Word):
        return [node.text]
    if isinstance(node, Choice):
        return [text for option in node.options for text in _texts(option)]
    texts = [""]
    for part in node.parts if isinstance(node, Parts) else ():
        texts = [f"{before} {after}".strip() for before in texts for after in _texts(part)]
    return texts
