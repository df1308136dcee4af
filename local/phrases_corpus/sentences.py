"""Sentences of a grammar that cover it: each alternative is said as often as the others in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from residualformer.context.grammar.source import Source
from residualformer.context.grammar.syntax import ANY, Choice, Node, Numbers, Reference, Repeat, Word
from residualformer.context.grammar.syntax import Sequence as Parts

MOST_NUMBERS = 200  # of a larger range so many values are said, evenly drawn, not all
MORE_REPEATS = 3  # beyond the fewest, where a part may be repeated without end


class Sampler:
    """Random sentences of a grammar, evenly spread over its alternatives.

    A choice takes the option that is behind the others: it has been taken the least for what it needs. So `needed`
    sentences say every alternative once, and n times as many say it n times, in random company.

    Args:
        words: those that stand for <any>.
    """

    def __init__(self, source: Source, words: Sequence[str], rng: np.random.Generator) -> None:
        self.source, self.words, self.rng = source, words, rng
        self._needs: dict[int, int] = {}
        self._taken: dict[int, np.ndarray] = {}

    @property
    def needed(self) -> int:
        """The number of sentences that say every alternative once."""
        return self._need(self.source.sentences)

    def __iter__(self) -> Iterator[str]:
        """Yield sentences without end."""
        while True:
            yield " ".join(self._say(self.source.sentences))

    def _need(self, node: Node) -> int:
        """Return how many sentences say every alternative of a tree once."""
        if id(node) not in self._needs:
            self._needs[id(node)] = self._count(node)
        return self._needs[id(node)]

    def _count(self, node: Node) -> int:
        if isinstance(node, Parts):
            return max(map(self._need, node.parts), default=1)
        if isinstance(node, Choice):
            return sum(map(self._need, node.options))
        if isinstance(node, Repeat):
            return self._need(node.part)
        if isinstance(node, Numbers):
            return min(len(node.spoken), MOST_NUMBERS)
        if isinstance(node, Reference) and node.rule != ANY:
            return self._need(self.source.rules[node.rule])
        return 1

    def _say(self, node: Node) -> list[str]:
        """Return the words of a sentence of a tree."""
        if isinstance(node, Word):
            return [node.text]
        if isinstance(node, Parts):
            return [word for part in node.parts for word in self._say(part)]
        if isinstance(node, Choice):
            return self._say(self._next(node, node.options, [self._need(option) for option in node.options]))
        if isinstance(node, Numbers):
            return self._say(self._next(node, list(node.spoken.values()), [1] * len(node.spoken)))
        if isinstance(node, Repeat):
            most = node.least + MORE_REPEATS if node.most is None else node.most
            low, high = np.log([node.least + 1, most + 2])
            times = int(np.exp(self.rng.uniform(low, high))) - 1  # few of long ones: nobody spells 24 letters
            return [word for _ in range(times) for word in self._say(node.part)]
        if node.rule == ANY:
            return [self.words[self.rng.integers(len(self.words))]]
        return self._say(self.source.rules[node.rule])

    def _next(self, node: Node, options: Sequence[Node], needs: Sequence[int]) -> Node:
        """Return the option that is the most behind what it needs, a random one of equals, and count it."""
        taken = self._taken.setdefault(id(node), np.zeros(len(options)))
        behind = (taken + 1) / needs  # D'Hondt's rule: no option gets less than its share, rounded down
        number = int(self.rng.choice(np.flatnonzero(behind == behind.min())))
        taken[number] += 1
        return options[number]
