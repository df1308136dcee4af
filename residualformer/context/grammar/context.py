"""A grammar as the context of a search, which refuses what is not of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from residualformer.config.schema import DecodeConfig
from residualformer.context.grammar.compiled import Grammar, load_grammar
from residualformer.context.grammar.scorer import GrammarScorer
from residualformer.context.scorer import Context
from residualformer.context.verdict import Heard, Verdict
from residualformer.errors import UserError

SHORTEST_S = 0.5  # speech that is shorter counts as this long


class GrammarContext(Context):
    """Only what a grammar allows, with its slots, and "no match" for other speech.

    The distance of a result is how much likelier the labels are that a greedy search writes without the grammar, in
    nats per second of speech, from the first of them to the last:

        distance = (log P(free | x) - log P(sentence | x)) / seconds

    P(sentence | x) sums over alignments and P(free | x) is of one, so that the distance may be below 0.

    Args:
        reject: the largest distance that is accepted.
    """

    def __init__(self, grammar: Grammar, reject: float) -> None:
        self.grammar, self.reject = grammar, reject
        self._scorer = GrammarScorer(grammar.automaton, grammar.vocab_size)

    def scorer(self) -> GrammarScorer:
        return self._scorer  # which keeps nothing about streams

    def describe(self) -> dict[str, Any]:
        return {"grammar": {"check": self.grammar.check_sum, "reject": self.reject}}

    @property
    def judges(self) -> bool:
        return True

    def judge(self, heard: Heard) -> Verdict:
        """Return the slots of a sentence that is near enough, or what is refused."""
        if heard.score is None or not heard.free.frames:
            return Verdict(False, None, nearest=heard.text)
        frames = heard.free.frames[-1] - heard.free.frames[0] + 1
        seconds = max(frames * heard.frame_s, SHORTEST_S)
        distance = round((heard.free.score - heard.score) / seconds, 3)  # what is shown is what decides
        slots = self.grammar.network.slots_of(heard.text)
        if slots is None or not distance <= self.reject:
            return Verdict(False, distance, nearest=heard.text)
        return Verdict(True, distance, slots)


def read_grammar(
    path: Path, pieces: Sequence[str], decode: DecodeConfig, reject: float | None = None
) -> GrammarContext:
    """Return the context of a grammar's file, compiled or not.

    Args:
        pieces: the text of each token, in the numbering of training.
        decode: the search.
        reject: the largest distance that is accepted, in nats per second; default is what the file holds if it is
            compiled and tuned, else `decode.reject`.

    Raises:
        UserError: the file is missing or wrong or does not fit the tokens, the search is greedy, or `reject` is
            below 0.
    """
    if decode.kind != "beam":
        raise UserError("a grammar needs beam search, and this one is greedy: give beam=16, for example.")
    if reject is not None and not reject >= 0:
        raise UserError(f"reject is {reject}; give a number of nats per second, 0 or more.")
    grammar = load_grammar(path, list(pieces))
    known = decode.reject if grammar.reject is None else grammar.reject
    return GrammarContext(grammar, known if reject is None else reject)
