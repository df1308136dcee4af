"""Times of words that a decoding has found, against a reference: another alignment, or the truth of synthetic speech.

    python -m local.mini_corpus.word_times --corpus egs/mini/data/raw --split test --out test.ctm
    python benchmarks/word_times.py egs/mini/exp/residual/decode_test_beam16 --reference test.ctm

Only words that are right are compared. `alignment`: the start and end that are written for each word; `search`: the
frames at which the search wrote the word's first and last token, as `times` has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from residualformer.errors import UserError, run_main
from residualformer.files import read_json_lines, write_json
from residualformer.provenance import provenance
from residualformer.words.confidence import pairs
from residualformer.words.formats import read_ctm, words_of
from residualformer.words.words import Word, spans
from residualformer.workflow.options import OptionParser


def main() -> None:
    args = parse_args()
    reference = read_ctm(args.reference)
    errors: dict[str, list[tuple[float, float]]] = {"alignment": [], "search": []}
    for record in read_json_lines(args.decoded / "hyp.jsonl", "run stage 7 first"):
        if record["id"] not in reference:
            continue
        true, words = reference[record["id"]], words_of(record)
        written = [record["times"][span.first : span.last + 1] for span in spans(record["tokens"])]
        for place, true_place in pairs([each.word for each in words], [each.word for each in true]):
            here = words[place], Word("", written[place][0], written[place][-1], 1.0)
            for name, each in zip(errors, here, strict=True):
                errors[name].append((each.start - true[true_place].start, each.end - true[true_place].end))
    if not errors["search"]:
        raise UserError(f"no right word of {args.decoded} is in {args.reference}: are they of the same utterances?")
    results = {name: measure(np.array(each)) for name, each in errors.items()}
    print(table(results))
    if args.json:
        where = {"decoded": str(args.decoded), "reference": str(args.reference)}
        write_json(args.json, {**where, **results, **provenance()})


def measure(errors: np.ndarray) -> dict[str, dict[str, float]]:
    """Return measures in ms of the errors (M, 2) of starts and ends in s, and their number."""
    found = {}
    for name, each in zip(("start", "end"), 1000 * errors.T, strict=True):
        absolute = np.abs(each)
        found[name] = {
            "words": len(each),
            "bias": round(float(np.median(each)), 1),
            "median": round(float(np.median(absolute)), 1),
            "percentile_95": round(float(np.percentile(absolute, 95)), 1),
            "within_50": round(100 * float((absolute <= 50).mean()), 1),
        }
    return found


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the measures as a Markdown table."""
    lines = [
        "| times by | of | words | bias (ms) | median error (ms) | 95% below (ms) | within 50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, parts in results.items():
        for part, m in parts.items():
            lines.append(
                f"| {name} | {part} | {m['words']} | {m['bias']} | {m['median']} | {m['percentile_95']} | "
                f"{m['within_50']}% |"
            )
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("decoded", type=Path, metavar="FOLDER", help="what stage 7 wrote, with its hyp.jsonl")
    parser.add_argument("--reference", type=Path, required=True, metavar="CTM", help="true times of words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
