"""The command-line options of the context of a search."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from residualformer.config.schema import DecodeConfig
from residualformer.context.grammar.context import GrammarContext, read_grammar
from residualformer.context.hotwords import Hotwords, read_phrase, read_phrases
from residualformer.context.scorer import Context, joint
from residualformer.errors import UserError


def add_context_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("context of the search (docs/context.md)")
    group.add_argument(
        "--hotwords",
        type=Path,
        metavar="FILE",
        help="words and phrases to favor, one per line: PHRASE or PHRASE :SCORE",
    )
    group.add_argument(
        "--hotword", action="append", default=[], metavar="PHRASE", help="a phrase to favor; may be repeated"
    )
    group.add_argument(
        "--grammar",
        type=Path,
        metavar="FILE",
        help="allow only these sentences: a text file with one per line, YAML, or compiled by residualformer grammar",
    )
    group.add_argument(
        "--reject",
        type=float,
        metavar="NATS",
        help="report no match if other speech is likelier by more than this many nats per second (default: as in the "
        "compiled grammar or the model)",
    )


def context_of(args: argparse.Namespace, pieces: Sequence[str], decode: DecodeConfig) -> Context | None:
    """Return the context that the options describe, None without any.

    Args:
        pieces: the text of each token, in the numbering of training.

    Raises:
        UserError: a file is missing or wrong, or does not fit the tokens.
    """
    return joint([_hotwords(args, pieces, decode), _grammar(args, pieces, decode)])


def _hotwords(args: argparse.Namespace, pieces: Sequence[str], decode: DecodeConfig) -> Hotwords | None:
    phrases = read_phrases(args.hotwords) if args.hotwords else []
    phrases += [read_phrase(text, "--hotword") for text in args.hotword]
    return Hotwords(phrases, pieces, decode.hotwords_score) if args.hotwords or args.hotword else None


def _grammar(args: argparse.Namespace, pieces: Sequence[str], decode: DecodeConfig) -> GrammarContext | None:
    if args.grammar is not None:
        return read_grammar(args.grammar, pieces, decode, args.reject)
    if args.reject is not None:
        raise UserError(f"--reject {args.reject} belongs to a grammar: give --grammar, or leave it out.")
    return None
