"""A grammar on a test set: word errors with it and without, what it refuses, and what it costs.

    . ./path.sh && python benchmarks/grammar.py --model egs/mini/exp/residual --grammar egs/mini/grammar.yaml \
        --data egs/mini/data/fbank [--foreign an4=FOLDER] --out docs/results/mini

Word errors are those of the test utterances that the grammar has. Rejection is tried on speech that it does not have:
`other sentences`, the rest of the test set; `words held out`, the same utterances with grammars that lack each second
alternative of every list, the even or the odd ones, and with it a word that is said; and `--foreign` recordings, which
must not be of the grammar. The largest distance to accept is chosen on the utterances of the dev set that the grammar
has, for shares of them that may be refused; no test utterance decides.

The encoder runs once for all searches. Costs are processor seconds of one thread per second of audio, over the test
utterances: a beam search without a grammar, and one with it and the greedy search that it is judged by.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from grammar_text import render

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.context.grammar.compiled import compile_network
from residualformer.context.grammar.context import GrammarContext
from residualformer.context.grammar.network import Network, build, count_sentences
from residualformer.context.grammar.source import Source, read_source
from residualformer.context.grammar.syntax import Choice
from residualformer.context.grammar.tuning import choose
from residualformer.context.verdict import Heard, Verdict
from residualformer.data.arrays import load_features
from residualformer.data.audio import read_audio
from residualformer.data.fbank import compute_fbank
from residualformer.decode.corpus import read_cuts_with_features
from residualformer.decode.encode import EncodedFrames
from residualformer.decode.grouping import group_by_length
from residualformer.decode.recognize import encode_batch, search
from residualformer.decode.words import frame_s
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.hypothesis import Hypothesis
from residualformer.metrics.bootstrap import Measure, rate
from residualformer.metrics.wer import count_errors
from residualformer.model.checkpoint import Bundle, load_model
from residualformer.provenance import provenance
from residualformer.workflow.options import OptionParser

FALSE_REJECTS = (0.01, 0.02, 0.05)
SHORTEST_LIST = 4  # of which alternatives are held out
AUDIO = (".wav", ".flac", ".sph", ".raw")


class Utterance(NamedTuple):
    """A transcript, if it is known, and features (T, F)."""

    text: str
    features: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.features) * FRAME_SHIFT_S


class Restricted(NamedTuple):
    """The likeliest sentence of a grammar, empty if there is none, and what the grammar says of it."""

    text: str
    verdict: Verdict

    @property
    def distance(self) -> float:
        """The distance; infinite where there is none."""
        return np.inf if self.verdict.distance is None else self.verdict.distance


class Found(NamedTuple):
    """Texts without a grammar, what each grammar finds in each utterance, and processor seconds of both searches."""

    texts: list[str]
    restricted: list[list[Restricted]]
    free_s: float
    grammar_s: float


class Searcher:
    """A model with beam search, whose batches are encoded once for all grammars."""

    def __init__(self, bundle: Bundle, beam: int) -> None:
        self.bundle = bundle
        self.settings = replace(bundle.config.decode, kind="beam", beam=beam, nbest=1)

    def run(self, utterances: Sequence[Utterance], contexts: Sequence[GrammarContext]) -> Found:
        """Search all utterances."""
        texts = [""] * len(utterances)
        restricted: list[dict[int, Restricted]] = [{} for _ in contexts]
        free_s = grammar_s = 0.0
        greedy = replace(self.settings, kind="greedy")
        for batch in group_by_length(range(len(utterances)), lambda n: utterances[n].seconds, 60.0):
            encoded = encode_batch(self.bundle.model, [utterances[n].features for n in batch])
            found, seconds = self._search(encoded, self.settings)
            free_s += seconds
            heard, seconds = self._search(encoded, greedy)
            grammar_s += seconds
            for n, nbest in zip(batch, found, strict=True):
                texts[n] = self._text(nbest)
            for context, said in zip(contexts, restricted, strict=True):
                found, seconds = self._search(encoded, self.settings, context)
                grammar_s += seconds
                for n, nbest, (alone, *_) in zip(batch, found, heard, strict=True):
                    text, score = self._text(nbest), nbest[0].score if nbest else None
                    said[n] = Restricted(text, context.judge(Heard(text, score, alone, frame_s(self.bundle.model))))
        everywhere = [[said[n] for n in range(len(utterances))] for said in restricted]
        return Found(texts, everywhere, free_s, grammar_s)

    def _search(
        self, encoded: EncodedFrames, settings: DecodeConfig, context: GrammarContext | None = None
    ) -> tuple[list[list[Hypothesis]], float]:
        scorers = [context.scorer()] * len(encoded.lengths) if context else ()
        started = time.process_time()
        found = search(self.bundle.model, encoded.frames, encoded.lengths, settings, scorers)
        return found, time.process_time() - started

    def _text(self, nbest: Sequence[Hypothesis]) -> str:
        return self.bundle.tokenizer.decode(nbest[0].tokens) if nbest else ""


def without(source: Source, half: int) -> Source:
    """Return a grammar without each second alternative of its longer lists."""
    kept = {
        name: Choice(tuple(option for n, option in enumerate(rule.options) if n % 2 != half))
        if isinstance(rule, Choice) and len(rule.options) >= SHORTEST_LIST
        else rule
        for name, rule in source.rules.items()
    }
    return replace(source, rules=kept)


def equal_error(inside: Sequence[float], outside: Sequence[float]) -> tuple[float, float]:
    """Return the share of errors where as many are refused as accepted, and the distance at which they are."""
    own, other = np.array(inside), np.array(outside)
    limits = np.unique(np.concatenate([own, other]))
    refused = np.array([(own > limit).mean() for limit in limits])
    accepted = np.array([(other <= limit).mean() for limit in limits])
    best = int(np.abs(refused - accepted).argmin())
    return float(refused[best] + accepted[best]) / 2, float(limits[best])


def word_errors(said: Sequence[str], heard: Sequence[str]) -> Measure:
    """Return the word error rate in percent."""
    counts = count_errors(said, heard)
    return rate(counts.errors, counts.lengths)


def read_split(folder: Path, split: str, bundle: Bundle, limit: int | None) -> list[Utterance]:
    """Read the utterances of a split with their features."""
    cuts = read_cuts_with_features(folder / f"cuts_{split}.jsonl.gz", bundle.config.features)[:limit]
    return [Utterance(cut.supervisions[0].text, load_features(cut)) for cut in cuts]


def read_folder(folder: Path, bundle: Bundle, limit: int | None) -> list[Utterance]:
    """Compute features of the recordings below a folder; UserError if there are none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in AUDIO)[:limit]
    if not files:
        raise UserError(f"{folder} holds no recording ({', '.join(AUDIO)}): give another folder.")
    features = bundle.config.features
    return [Utterance("", compute_fbank(read_audio(path, features.sample_rate_hz), features)) for path in files]


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    bundle = load_model(args.model)
    searcher = Searcher(bundle, args.beam)
    source = read_source(args.grammar)
    pieces = bundle.tokenizer.pieces
    network = build(source)
    whole, *halves = (
        GrammarContext(compile_network(build(each), pieces), np.inf)
        for each in (source, without(source, 0), without(source, 1))
    )
    dev, test = (read_split(args.data, split, bundle, args.limit) for split in ("dev", "test"))
    dev = [each for each in dev if network.accepts(each.text)]
    own = [each for each in test if network.accepts(each.text)]
    if not dev or not own:
        raise UserError(f"{args.data}: it has {len(dev)} sentences of dev and {len(own)} of test.")
    tuned = sorted(each.distance for each in searcher.run(dev, [whole]).restricted[0])
    limits = [choose(tuned, share) for share in FALSE_REJECTS]
    found = searcher.run(own, [whole, *halves])
    inside, *lacking = found.restricted
    cost = searcher.run(own, [whole])  # of one grammar
    others = {"other sentences": [each for each in test if not network.accepts(each.text)]}
    others |= {name: read_folder(folder, bundle, args.limit) for name, folder in args.foreign}
    outside = {name: [r.distance for r in searcher.run(each, [whole]).restricted[0]] for name, each in others.items()}
    kinds = {name: ([each.distance for each in inside], distances) for name, distances in outside.items()}
    kinds["words held out"] = held_out(own, lacking, [build(without(source, half)) for half in (0, 1)])
    result = {
        **provenance(),
        "model": args.model.name,
        "grammar": str(args.grammar),
        "sentences": count_sentences(network),
        "search": f"beam {args.beam}",
        "dev": len(dev),
        "recognition": recognition(network, own, found.texts, inside),
        "shares": list(FALSE_REJECTS),
        "limits": limits,
        "rejection": [rejection(name, *each, limits) for name, each in kinds.items() if all(each)],  # not of nothing
        "cost": {
            "audio_s": sum(each.seconds for each in own),
            "free": cost.free_s / sum(each.seconds for each in own),
            "grammar": cost.grammar_s / sum(each.seconds for each in own),
        },
    }
    text = render(result)
    print(text)
    if args.out:
        write_json(args.out / "grammar.json", result)
        write_text(args.out / "GRAMMAR.md", text)


def held_out(
    own: Sequence[Utterance], lacking: Sequence[Sequence[Restricted]], networks: Sequence[Network]
) -> tuple[list[float], list[float]]:
    """Return the distances of what the smaller grammars have, and of what they lack."""
    inside, outside = [], []
    for found, network in zip(lacking, networks, strict=True):
        for utterance, each in zip(own, found, strict=True):
            (inside if network.accepts(utterance.text) else outside).append(each.distance)
    return inside, outside


def recognition(
    network: Network, own: Sequence[Utterance], free: Sequence[str], inside: Sequence[Restricted]
) -> dict[str, Any]:
    """Return word errors, sentences and slots that are right, without a grammar and with it, nothing refused."""
    said, restricted = [each.text for each in own], [each.text for each in inside]
    plain, better = word_errors(said, free), word_errors(said, restricted)
    gap = better.gap(plain)
    slots = [network.slots_of(text) for text in said]
    values: dict[str, Any] = {"utterances": len(own), "words": sum(len(text.split()) for text in said)}
    values["relative"] = [gap.relative, gap.relative_low, gap.relative_high]
    values["p_value"] = gap.p_value
    for name, measure, heard in (("free", plain, free), ("grammar", better, restricted)):
        score = measure.rounded()
        values[name] = {
            "wer": [score.value, score.low, score.high],
            "sentences_right": sum(map(str.__eq__, said, heard)),
            "slots_right": sum(network.slots_of(text) == each for text, each in zip(heard, slots, strict=True)),
        }
    return values


def rejection(name: str, inside: Sequence[float], outside: Sequence[float], limits: Sequence[float]) -> dict[str, Any]:
    """Return the equal error rate, and what happens at each limit."""
    error, limit = equal_error(inside, outside)
    refused = [sum(distance > limit for distance in inside) for limit in limits]
    accepted = [sum(distance <= limit for distance in outside) for limit in limits]
    values = {"speech": name, "inside": len(inside), "outside": len(outside)}
    return values | {"equal_error": error, "equal_limit": limit, "refused": refused, "accepted": accepted}


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not folder or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is no NAME=FOLDER with a folder that exists")
    return name, Path(folder)


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a run folder, or its model.safetensors")
    parser.add_argument("--grammar", type=Path, required=True, help="sentences or YAML, not compiled")
    parser.add_argument("--data", type=Path, required=True, help="folder of cuts_dev and cuts_test with features")
    parser.add_argument(
        "--foreign", type=_named, action="append", default=[], metavar="NAME=FOLDER", help="recordings of other speech"
    )
    parser.add_argument("--beam", type=int, default=16)
    parser.add_argument("--limit", type=int, help="only the first so many utterances of each set")
    parser.add_argument("--out", type=Path, help="folder for grammar.json and GRAMMAR.md")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
