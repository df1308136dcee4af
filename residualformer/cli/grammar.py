"""`residualformer grammar`: what a grammar allows, and its compilation for a model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from residualformer.constants import MODEL_FILE
from residualformer.context.grammar.compiled import SUFFIX, compile_network
from residualformer.context.grammar.network import Network, build, count_sentences
from residualformer.context.grammar.source import read_source
from residualformer.context.grammar.tuning import FALSE_REJECTS, tune
from residualformer.context.scorer import training_order
from residualformer.errors import UserError
from residualformer.runtime.settings import TOKENS_FILE, is_exported, read_settings
from residualformer.runtime.tokens import read_tokens

SAMPLES, MANY = 10, 1000  # sentences that are printed, and those of which a mean is taken
WORDS_PER_S = 2.5  # of fluent speech


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="sentences, one a line, or a grammar in YAML (docs/grammar.md)")
    add(
        "--samples",
        type=int,
        metavar="N",
        help=f"random sentences to print ({SAMPLES}; with --accepts or --out none)",
    )
    add("--seed", type=int, default=1, metavar="N", help="of the random sentences (1)")
    add("--accepts", action="append", default=[], metavar="TEXT", help="print the slots of a sentence; may be repeated")
    add("--model", type=Path, metavar="MODEL", help=f"compile for this run folder, {MODEL_FILE} or exported folder")
    add("--out", type=Path, metavar=f"FILE{SUFFIX}", help="write the compiled grammar, with --model")
    add(
        "--tune",
        type=Path,
        metavar="HYP.jsonl",
        help="of a dev set that was decoded with this grammar: choose on it what counts as no match, with --out",
    )
    add(
        "--false-rejects",
        type=float,
        metavar="SHARE",
        help="share of the grammar's sentences that may be taken for no match, with --tune (the one that makes the "
        f"fewest mistakes, counting other speech that is accepted; {FALSE_REJECTS} if the set has none)",
    )


def run(args: argparse.Namespace) -> None:
    """Print counts and samples of a grammar, or the slots of sentences; write it compiled.

    The exit status is 1 if the grammar does not have a sentence of --accepts.
    """
    _check(args)
    network = build(read_source(args.file))
    if args.out is not None:
        _compile(args, network)
    found = [_explain(network, text) for text in args.accepts]
    samples = args.samples
    if samples is None and not args.accepts and args.out is None:
        samples = SAMPLES
    if samples is not None:
        _preview(args.file, network, samples, args.seed)
    if not all(found):
        sys.exit(1)


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for options that contradict each other or are out of range."""
    if args.file.suffix.lower() == SUFFIX:
        raise UserError(f"{args.file} is a compiled grammar by its name: give the file that it was compiled from.")
    if (args.model is None) != (args.out is None):
        raise UserError("--model and --out belong together: give the model and the file for the compiled grammar.")
    if args.samples is not None and args.samples < 0:
        raise UserError(f"--samples is {args.samples}; give 0 or more.")
    if args.out is not None and args.out.suffix.lower() != SUFFIX:
        raise UserError(f"--out {args.out} does not end in {SUFFIX}, by which a compiled grammar is known: add it.")
    if args.tune is not None and args.out is None:
        raise UserError("--tune is kept in a compiled grammar: give --model and --out as well.")
    if args.false_rejects is not None:
        if args.tune is None:
            raise UserError(f"--false-rejects {args.false_rejects} belongs to --tune: give it, or leave this out.")
        if not 0 <= args.false_rejects < 1:
            raise UserError(f"--false-rejects is {args.false_rejects}; give a share from 0 to below 1, such as 0.02.")


def _compile(args: argparse.Namespace, network: Network) -> None:
    """Write the grammar for the tokens of the model, with the distance that suits both if they are tuned."""
    grammar = compile_network(network, _pieces(args.model))
    if args.tune is not None:
        tuning = tune(grammar, args.tune, args.false_rejects)
        grammar = replace(grammar, reject=tuning.reject)
        print(
            f"{args.tune}: beyond {tuning.reject:.3f} nats per second nothing matches; this refuses {tuning.refused} "
            f"of {tuning.sentences} sentences of the grammar and accepts {tuning.accepted} of {tuning.others} others"
        )
    grammar.save(args.out)
    arcs = len(grammar.automaton.labels)
    print(f"{args.out}: {grammar.automaton.num_states:,} states, {arcs:,} arcs over {grammar.vocab_size} tokens")


def _preview(file: Path, network: Network, samples: int, seed: int) -> None:
    """Print how large the grammar is, how long its sentences are, and some of them."""
    count = count_sentences(network)
    sentences = "sentences without end" if count is None else f"{count:,} sentences"
    lengths = [len(sentence.split()) for sentence in network.samples(MANY, seed)]
    mean = sum(lengths) / len(lengths)
    print(
        f"{file}: {sentences}, {network.num_words:,} words, {len(network.slots)} slots; a random sentence has "
        f"{mean:.1f} words, about {mean / WORDS_PER_S:.1f} s of speech"
    )
    for sentence in network.samples(samples, seed):
        print(sentence)


def _explain(network: Network, text: str) -> bool:
    """Print if the grammar has a sentence, and its slots."""
    slots = network.slots_of(text)
    print(f"{text}\tnot in the grammar" if slots is None else f"{text}\t{json.dumps(slots, ensure_ascii=False)}")
    return slots is not None


def _pieces(model: Path) -> list[str]:
    """Return the pieces of a model in the numbering of training."""
    if is_exported(model):
        return training_order(read_tokens(model / TOKENS_FILE), read_settings(model).blank_id)
    from residualformer.model.checkpoint import load_model  # imports torch, which an exported folder does without

    return load_model(model).tokenizer.pieces
