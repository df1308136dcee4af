"""The tokens of words, from the list of a model's pieces alone: an exported folder has no more."""

from __future__ import annotations

from collections.abc import Sequence

from residualformer.constants import SPACE
from residualformer.errors import UserError

FIRST = 2  # the id of the first piece after blank and unknown


class Pieces:
    """The pieces of a model in the numbering of training: blank and unknown come first.

    They are characters, or merges of byte-pair encoding, which sentencepiece numbers in the order in which they were
    learned. A sentence of characters has a space between words; a word of BPE begins with one, the first too.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        self.ids = {piece: i for i, piece in enumerate(pieces) if i >= FIRST}
        self.is_bpe = any(len(piece) > 1 for piece in self.ids)
        self.characters = {piece for piece in self.ids if len(piece) == 1}

    def encode(self, word: str, first: bool) -> list[int]:
        """Return the tokens of one word, which the tokenizer of the model gives; `first`: of a sentence.

        Raises:
            UserError: a character has no token.
        """
        if missing := [character for character in word if character not in self.characters]:
            raise UserError(
                f"the word '{word}' has the character '{missing[0]}', for which the model has no token: write it with "
                f"these: {' '.join(sorted(self.characters - {SPACE}))}"
            )
        symbols = list(word if first and not self.is_bpe else SPACE + word)
        while True:
            pairs = [(self.ids.get(a + b), i) for i, (a, b) in enumerate(zip(symbols, symbols[1:]))]
            merges = [(merge, i) for merge, i in pairs if merge is not None]
            if not merges:
                break
            _, i = min(merges)  # the merge learned first, and of equal ones the leftmost
            symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
        return [self.ids[symbol] for symbol in symbols]

    def in_their_case(self, word: str) -> str:
        """Return a word in upper or lower case if all pieces are."""
        text = "".join(self.ids)
        if text.isupper():
            return word.upper()
        return word.lower() if text.islower() else word
