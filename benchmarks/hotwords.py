"""Hotwords on a test set: how many listed words are found, what the other words lose, and what it costs.

    . ./path.sh && python benchmarks/hotwords.py --model exp/residual --cuts data/fbank/cuts_test.jsonl.gz \
        --train data/fbank/cuts_train.jsonl.gz [--rare 50 | --spelled] [--distractors 100] [--scores 1 2] [--out DIR]

The protocol is that of Le et al. (2021, "Contextualized streaming end-to-end speech recognition with trie-based deep
biasing and shallow fusion"): each utterance has a list of its own, the rare words of its transcript and as many
distractors, rare words that it does not contain. Rare is what the training text has at most `--rare` times. With
`--spelled` the listed phrases are words spelled letter by letter instead, as AN4 has them: three letters or more.

The encoder runs once for all scores. `recall` is the share of listed phrases in the transcripts that are found whole;
`other WER` counts the errors at all other words, and every word that was inserted; `false` is the number of distractors
found where nobody said them. Score 0 is the search without a list.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from published import Publication

from residualformer.context.hotwords import Hotwords, Phrase
from residualformer.data.arrays import load_features
from residualformer.data.manifest import read_cuts
from residualformer.decode.corpus import batches, read_cuts_with_features
from residualformer.decode.encode import EncodedFrames
from residualformer.decode.recognize import encode_batch, search_encoded
from residualformer.errors import UserError, run_main
from residualformer.metrics.bootstrap import Measure, Score, rate
from residualformer.model.checkpoint import load_model
from residualformer.report.format import NOTHING, markdown_table, show_ends, show_score
from residualformer.workflow.options import OptionParser

SEED = 1


@dataclass
class Utterance:
    """A transcript, the places (start, end) of listed phrases in it, and its list with the distractors."""

    words: list[str]
    places: list[tuple[int, int]]
    phrases: list[str]
    distractors: set[str]


COUNTS = ("listed", "missed", "others", "other_errors", "words", "errors", "false")


@dataclass
class Tally:
    """What one score did to a test set: `COUNTS` of each utterance, and seconds of processor time in the search."""

    counts: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, utterance: Utterance, hypothesis: str) -> None:
        """Count one utterance."""
        right, inserted = [False] * len(utterance.words), 0
        for chunk in jiwer.process_words([" ".join(utterance.words)], [hypothesis]).alignments[0]:
            if chunk.type == "insert":
                inserted += chunk.hyp_end_idx - chunk.hyp_start_idx
            for place in range(chunk.ref_start_idx, chunk.ref_end_idx):
                right[place] = chunk.type == "equal"
        covered = {place for start, end in utterance.places for place in range(start, end)}
        missed = sum(not all(right[start:end]) for start, end in utterance.places)
        others = [ok for place, ok in enumerate(right) if place not in covered]
        false = sum(f" {phrase} " in f" {hypothesis} " for phrase in utterance.distractors)
        errors = others.count(False) + inserted, right.count(False) + inserted
        self.counts.append([len(utterance.places), missed, len(others), errors[0], len(right), errors[1], false])

    def sums(self) -> dict[str, int]:
        """Return the sum of each count."""
        return {name: int(total) for name, total in zip(COUNTS, np.sum(self.counts, axis=0), strict=True)}

    def rate(self, errors: str, total: str) -> Measure:
        """Return the ratio of two counts in percent."""
        columns = np.array(self.counts).T
        return rate(columns[COUNTS.index(errors)], columns[COUNTS.index(total)])


def rare_places(words: Sequence[str], rare: set[str]) -> list[tuple[int, int]]:
    """Places of rare words."""
    return [(place, place + 1) for place, word in enumerate(words) if word in rare]


def spelled_places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Places of three or more letters in a row."""
    places, start = [], 0
    for end in range(len(words) + 1):
        if end == len(words) or len(words[end]) > 1:
            if end - start >= 3:
                places.append((start, end))
            start = end + 1
    return places


def with_lists(test: Sequence[str], train: Sequence[str], rare: int, spelled: bool, count: int) -> list[Utterance]:
    """The utterances with their lists; distractors are drawn from the training text."""
    counts = Counter(word for text in train for word in text.split())
    candidates = {word for word, number in counts.items() if number <= rare}
    known = candidates | {word for text in test for word in text.split() if counts[word] <= rare}
    if spelled:
        places = (spelled_places(text.split()) for text in train)
        candidates = {" ".join(text.split()[start:end]) for text, each in zip(train, places) for start, end in each}
    draw, utterances = random.Random(SEED), []
    for text in test:
        words = text.split()
        found = spelled_places(words) if spelled else rare_places(words, known)
        said = {" ".join(words[start:end]) for start, end in found}
        others = sorted(phrase for phrase in candidates if f" {phrase} " not in f" {text} ")
        distractors = set(draw.sample(others, min(count, len(others))))
        utterances.append(Utterance(words, found, sorted(said | distractors), distractors))
    return utterances


@torch.no_grad()
def main() -> None:
    args = parse_args()
    publication = Publication(args.out, "hotwords", "hotwords.py")
    torch.set_num_threads(1)
    bundle = load_model(args.model)
    settings = replace(bundle.config.decode, kind="beam" if args.beam > 1 else "greedy", beam=args.beam, nbest=1)
    cuts = sorted(read_cuts_with_features(args.cuts, bundle.config.features), key=lambda cut: cut.id)[: args.limit]
    train = [cut.supervisions[0].text for cut in read_cuts(args.train, stage=2)]
    test = {cut.id: cut.supervisions[0].text for cut in cuts}
    lists = with_lists(list(test.values()), train, args.rare, args.spelled, args.distractors)
    utterances = dict(zip(test, lists))
    if not any(utterance.places for utterance in lists):
        raise UserError(f"{args.cuts} has no phrase to list: give a larger --rare, or leave --spelled out.")
    tallies = {score: Tally() for score in (0.0, *args.scores)}
    for batch in batches(cuts, settings.max_batch_s):
        encoded: EncodedFrames = encode_batch(bundle.model, [load_features(cut) for cut in batch])
        for score, tally in tallies.items():
            started = time.process_time()
            scorers = [
                Hotwords(map(Phrase, utterances[cut.id].phrases), bundle.tokenizer.pieces, score).scorer()
                for cut in (batch if score else ())
            ]
            found = search_encoded(bundle.model, settings, encoded, scorers)
            tally.seconds += time.process_time() - started
            for cut, result in zip(batch, found, strict=True):
                tally.add(utterances[cut.id], bundle.tokenizer.decode(result.nbest[0].tokens))
        print(f"{len(tallies[0.0].counts)} of {len(cuts)} utterances", flush=True)
    rows = [row(score, tally, tallies[0.0]) for score, tally in tallies.items()]
    plain = tallies[0.0].sums()
    kind = "words spelled letter by letter" if args.spelled else f"words at most {args.rare} times in the training text"
    title = f"Hotwords: {args.name or args.cuts.stem}"
    about = (
        f"{len(cuts)} utterances, {plain['words']} words, {plain['listed']} listed: {kind}. The list of each utterance "
        f"has those of its transcript and {args.distractors} distractors, drawn with seed {SEED}. Beam {args.beam}. In "
        "brackets: 95% intervals of the paired bootstrap over utterances; missed: listed words that were not found "
        "whole; false: distractors found where nobody said them."
    )
    publication.write(title, [about, "", *table(rows)], {"about": about, "rows": rows})


def row(score: float, tally: Tally, plain: Tally) -> dict[str, Any]:
    """Return the measures of one score beside those without a list."""
    missed, others = (tally.rate(*names) for names in (("missed", "listed"), ("other_errors", "others")))
    return {
        "score": score,
        **tally.sums(),
        "missed_percent": asdict(missed.rounded()),
        "missed_gap": asdict(missed.gap(plain.rate("missed", "listed"))),
        "other_wer": asdict(others.rounded()),
        "other_gap": asdict(others.gap(plain.rate("other_errors", "others"))),
        "wer": round(tally.rate("errors", "words").value, 2),
        "times": round(tally.seconds / plain.seconds, 3),
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as a Markdown table."""
    header = ["score", "recall %", "missed % [95%]", "vs none", "p", "WER %", "other WER % [95%]", "vs none", "p"]
    lines = []
    for each in rows:
        cells = [f"{each['score']:g}" if each["score"] else "none"]
        cells += [f"{100 * (1 - each['missed'] / each['listed']):.1f}", show_score(Score(**each["missed_percent"]))]
        cells += [*gap(each["missed_gap"], each["score"]), f"{each['wer']:.2f}"]
        cells += [show_score(Score(**each["other_wer"])), *gap(each["other_gap"], each["score"])]
        lines.append([*cells, str(each["false"]), f"{each['times']:.2f}"])
    return markdown_table([*header, "false", "search, times"], lines)


def gap(values: dict[str, Any], score: float) -> list[str]:
    """Return the relative difference with its interval, and its p."""
    if not score or values["relative"] is None:
        return [NOTHING, NOTHING]
    ends = show_ends(values["relative_low"], values["relative_high"])
    return [f"{values['relative']:+.1f}% {ends}", f"{values['p_value']:.3f}"]


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a run folder, or its model.safetensors")
    parser.add_argument("--cuts", type=Path, required=True, help="what to recognize, with features (stage 2)")
    parser.add_argument("--train", type=Path, required=True, help="the training cuts, for counts and distractors")
    parser.add_argument("--name", help="of the test set, for the table")
    parser.add_argument("--rare", type=int, default=50, help="occurrences in training of a rare word, at most")
    parser.add_argument("--spelled", action="store_true", help="list words spelled letter by letter instead")
    parser.add_argument("--distractors", type=int, default=100)
    parser.add_argument("--scores", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0])
    parser.add_argument("--beam", type=int, default=16, help="1: greedy search")
    parser.add_argument("--limit", type=int, help="only the first so many utterances")
    parser.add_argument("--out", type=Path, help="folder for HOTWORDS.md and hotwords.json")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
