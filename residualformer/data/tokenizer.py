"""Tokenizers: sentencepiece BPE or characters, with the transducer's blank as id 0 and unknown as id 1."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece as spm

from residualformer.config.schema import TokenConfig
from residualformer.constants import BLANK, SPACE
from residualformer.errors import UserError, closest
from residualformer.files import read_checked_json, write_checked_json

BLANK_PIECE, UNKNOWN_PIECE = "<blk>", "<unk>"


class Tokenizer:
    """A converter between text and token ids.

    `decode(encode(text)) == text` for single-spaced text of known characters.

    Args:
        pieces: the text of each token, in the order of their ids: blank and unknown come first.
        model: of sentencepiece; None for one token per character.
    """

    blank_id = BLANK
    unk_id = 1

    def __init__(self, pieces: Sequence[str], model: bytes | None = None) -> None:
        self.pieces = list(pieces)
        self._model = model
        self._sentencepiece = spm.SentencePieceProcessor(model_proto=model) if model else None
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._characters = set("".join(self.pieces[2:])) - {SPACE}

    @property
    def kind(self) -> str:
        """`bpe` or `char`."""
        return "char" if self._sentencepiece is None else "bpe"

    @property
    def vocab_size(self) -> int:
        """The number of tokens, including blank and unknown."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, none of them blank; runs of spaces count as one."""
        if self._sentencepiece is not None:
            return self._sentencepiece.encode(text)
        return [self._ids.get(c, self.unk_id) for c in SPACE.join(text.split())]

    def knows_any(self, text: str) -> bool:
        """Return whether any character of `text` has a token; much faster than to encode it."""
        return any(c in self._characters for c in text)

    def unknown_characters(self, texts: Iterable[str]) -> list[str]:
        """Return the characters of `texts` that have no token, sorted."""
        return sorted(set().union(*texts) - self._characters - {" "})

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without blanks and with `<unk>` for unknown."""
        kept = [int(i) for i in ids if i != self.blank_id]
        if self._sentencepiece is not None:
            return self._sentencepiece.decode(kept)
        return "".join(self.pieces[i] for i in kept).replace(SPACE, " ")

    def to_dict(self) -> dict[str, Any]:
        """Return everything needed to rebuild the tokenizer, as JSON values."""
        if self._model is None:
            return {"kind": "char", "pieces": self.pieces}
        return {"kind": "bpe", "model": base64.b64encode(self._model).decode("ascii")}

    @classmethod
    def from_dict(cls, data: Any) -> Tokenizer:
        """Rebuild a tokenizer from the value of `to_dict`; ValueError if `data` is something else."""
        if not isinstance(data, dict) or data.get("kind") not in ("bpe", "char"):
            raise ValueError("it is not a mapping of kind bpe or char")
        model, pieces = data.get("model"), data.get("pieces")
        if data["kind"] == "bpe":
            if not isinstance(model, str) or not model:
                raise ValueError("its model is not a text in base64")
            tokenizer = _from_sentencepiece(base64.b64decode(model))
        else:
            if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
                raise ValueError("its pieces are not a list of texts")
            tokenizer = cls(pieces)
        pieces = tokenizer.pieces
        if pieces[:2] != [BLANK_PIECE, UNKNOWN_PIECE] or len(set(pieces)) != len(pieces):
            raise ValueError(f"it must begin with {BLANK_PIECE} and {UNKNOWN_PIECE} and hold no piece twice")
        return tokenizer

    def save(self, path: Path | str) -> None:
        """Write the tokenizer to a JSON file."""
        write_checked_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read the file that `save` wrote; UserError if it is missing or damaged."""
        if not Path(path).exists():
            raise UserError(f"{path} is missing: run stage 3 first.")
        advice = "run stage 3 again, with --overwrite"
        try:
            return cls.from_dict(read_checked_json(path, advice))
        except ValueError as error:
            raise UserError(f"{path} is not a token set ({error}): {advice}.") from error

    @property
    def fingerprint(self) -> str:
        """A short hash, the same for equal tokenizers only."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def train_tokenizer(texts: Iterable[str], config: TokenConfig) -> Tokenizer:
    """Learn the tokens of `texts`. The same texts in the same order give the same tokenizer.

    Raises:
        UserError: there is no text, `config.kind` is unknown, or `config.vocab_size` is too small or too large for the
            text.
    """
    texts = [" ".join(text.split()) for text in texts]
    texts = [text for text in texts if text]
    if not texts:
        raise UserError("tokens: there is no training text to learn them from; look at the manifests (stage 1).")
    characters = set("".join(texts).replace(" ", SPACE))
    if config.kind == "bpe":
        return _train_bpe(texts, characters | {SPACE}, config)
    if config.kind == "char":
        return Tokenizer([BLANK_PIECE, UNKNOWN_PIECE, *sorted(characters)])
    raise UserError(f"tokens.kind is '{config.kind}'; allowed are bpe, char.{closest(config.kind, ('bpe', 'char'))}")


def _train_bpe(texts: list[str], characters: set[str], config: TokenConfig) -> Tokenizer:
    smallest = len(characters) + 2
    if config.vocab_size < smallest:
        raise UserError(
            f"tokens.vocab_size is {config.vocab_size}, but the text has {len(characters)} characters (space included) "
            f"beside blank and unknown: give at least {smallest}."
        )
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=config.vocab_size,
        hard_vocab_limit=False,  # a text of too few merges ends early, and gives the error below
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=Tokenizer.blank_id,  # a control piece: no text can produce it
        pad_piece=BLANK_PIECE,
        unk_id=Tokenizer.unk_id,
        unk_piece=UNKNOWN_PIECE,
        unk_surface=UNKNOWN_PIECE,
        bos_id=-1,
        eos_id=-1,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = _from_sentencepiece(model.getvalue())
    if tokenizer.vocab_size < config.vocab_size:
        raise UserError(
            f"tokens.vocab_size is {config.vocab_size}, but this text yields at most {tokenizer.vocab_size} tokens: "
            f"give {tokenizer.vocab_size} or less."
        )
    return tokenizer


def _from_sentencepiece(model: bytes) -> Tokenizer:
    try:
        processor = spm.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"sentencepiece refuses its model: {error}") from error
    return Tokenizer([processor.id_to_piece(i) for i in range(processor.get_piece_size())], model)
