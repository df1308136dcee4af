"""Back-off n-gram models as sorted arrays, queried for many histories at once.

With P(w | h) explicit for the n-grams of the model and h' the history h without its oldest word (Katz, 1987):

    P(w | h) = explicit P(w | h), or else backoff(h) P(w | h')

The n-grams are nodes of a tree: node 0 is the empty one, each other lies below its words but the last. They are
numbered level by level and by (parent, word), so the sorted array of parent * W + word, in which a search finds a node,
is the whole tree. All log-probabilities are natural.

KenLM would be the library for it, but its package has no wheels (that of a fork, `kenlm-ex`, has), and its interface
scores one word after one history at a time, where a search needs those of all V labels. Tests compare with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99 * float(np.log(10))  # of words that are never predicted, as ARPA files write them
MISSING = -100 * float(np.log(10))  # of the unknown word where a model has none, as in KenLM

Array = NDArray[Any]


class NGramModel:
    """An n-gram model of W words; its levels are added from the unigrams upwards.

    Every word is a unigram: the node of word w is w + 1. The words must hold `<s>`, `</s>` and `<unk>`.

    Attributes:
        words: the text of each word, by its number.
        keys: (G,) int64, parent * W + word of node i + 1, ascending.
        logp, backoff: (G + 1,) float64, by node.
        suffixes: (G + 1,) int64, the longest n-gram that is a proper suffix, by node.
        ends: the last node of each level.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.ids = {word: number for number, word in enumerate(words)}
        self.start, self.end, self.unknown = (self.ids[word] for word in (START, END, UNKNOWN))
        self.keys = np.zeros(0, np.int64)
        self.logp, self.backoff = np.zeros(1), np.zeros(1)
        self.suffixes = np.zeros(1, np.int64)
        self.ends: list[int] = [0]

    def digest(self) -> str:
        """Return twelve digits that change when any word or number does."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for part in (self.keys, self.logp, self.backoff):
            digest.update(part.tobytes())
        return digest.hexdigest()[:12]

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.ends) - 1

    @property
    def first_state(self) -> int:
        """The node of the history at the start of a sentence."""
        return self.start + 1

    def add_level(self, parents: Array, words: Array, logp: Array, backoff: Array) -> Array:
        """Add the n-grams `parents` (G,), nodes of the level before, followed by `words` (G,).

        Returns:
            (G,) int64, their nodes.

        Raises:
            ValueError: an n-gram is given twice.
        """
        keys = parents.astype(np.int64) * len(self.words) + words
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():
            raise ValueError("an n-gram is given twice")
        self.keys = np.concatenate([self.keys, keys[order]])
        self.logp = np.concatenate([self.logp, logp[order]])
        self.backoff = np.concatenate([self.backoff, backoff[order]])
        last = self.ends[-1]
        self.suffixes = np.concatenate([self.suffixes, self._suffixes(parents[order], words[order])])
        self.ends.append(last + len(keys))
        nodes = np.empty(len(keys), np.int64)
        nodes[order] = np.arange(last + 1, last + 1 + len(keys))
        return nodes

    def _suffixes(self, parents: Array, words: Array) -> Array:
        """Return the longest proper suffixes of n-grams: the longest one of the parent's that `words` continue."""
        if not self.order:
            return np.zeros(len(words), np.int64)
        return self.longest(self.suffixes[parents], words)

    def find(self, histories: Array, words: Array) -> Array:
        """Return the nodes (M,) of histories (M,) continued by words (M,), 0 where there are none."""
        if not len(self.keys):
            return np.zeros(len(words), np.int64)
        keys = histories * len(self.words) + words
        index = np.searchsorted(self.keys, keys)
        return np.where(self.keys[np.minimum(index, len(self.keys) - 1)] == keys, index + 1, 0)

    def longest(self, histories: Array, words: Array) -> Array:
        """Return the longest n-grams (M,) that end in histories (M,) followed by words (M,)."""
        histories, nodes = histories.astype(np.int64), np.zeros(len(words), np.int64)
        open_ = np.arange(len(words))
        while len(open_):
            found = self.find(histories[open_], words[open_])
            nodes[open_] = found
            open_ = open_[(found == 0) & (histories[open_] > 0)]
            histories[open_] = self.suffixes[histories[open_]]
        return nodes

    def next_states(self, states: Array, words: Array) -> Array:
        """Return the histories (M,) after words (M,): `longest`, but shorter than the n-grams of the highest order."""
        nodes = self.longest(states, words)
        return np.where(nodes > self.ends[-2], self.suffixes[nodes], nodes)

    def log_probabilities(self, states: Array, words: Array) -> Array:
        """Return log P(word | history) (M,) float64 of histories (M,) and words (M,)."""
        states, total = states.astype(np.int64), np.zeros(len(words))
        open_ = np.arange(len(words))
        while len(open_):
            found = self.find(states[open_], words[open_])
            total[open_] += np.where(found > 0, self.logp[found], self.backoff[states[open_]])
            open_ = open_[found == 0]  # every word is a unigram, so the empty history ends it
            states[open_] = self.suffixes[states[open_]]
        return total

    def row(self, state: int) -> Array:
        """Return log P(word | history) (W,) float64 of all words."""
        chain = []
        while state:
            chain.append(state)
            state = int(self.suffixes[state])
        num_words = len(self.words)
        row = self.logp[1 : num_words + 1].copy()
        for node in reversed(chain):
            row += self.backoff[node]
            first, last = np.searchsorted(self.keys, [node * num_words, (node + 1) * num_words])
            row[self.keys[first:last] - node * num_words] = self.logp[first + 1 : last + 1]
        return row
