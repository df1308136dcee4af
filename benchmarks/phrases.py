"""Trained phrases: what is right on voices never heard, what is wrongly accepted, size, speed, and how it was made.

    . ./path.sh && python benchmarks/phrases.py egs/oven/exp/shared egs/lamp/exp/shared --out docs/results/phrases

RUN is a run folder of egs/phrases/run.sh after stages 7 to 9. Accuracy and false alarms are those of stage 7, of all
test sets that were decoded, recordings of people included. The real-time factor is processor time of one thread for a
second of audio: the int8 files hear sentences of `--heard` as streams, with the grammar. Published runs that are not
named stay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from phrases_text import render
from published import Publication, portable

import residualformer
from residualformer.constants import MODEL_FILE
from residualformer.context.grammar.network import build, count_sentences
from residualformer.context.grammar.source import read_source
from residualformer.data.manifest import load_audio, read_cuts
from residualformer.data.splits import cuts_file
from residualformer.errors import UserError, run_main
from residualformer.files import read_json
from residualformer.model.checkpoint import read_model
from residualformer.report.grammar import score_decoded
from residualformer.report.plain import to_plain
from residualformer.report.results import Training
from residualformer.workflow.marker import Marker, marker_of
from residualformer.workflow.options import OptionParser
from residualformer.workflow.recipe import COMPILED

INT8 = "*.int8.onnx"


def measure(run: Path, heard: str, seconds: float) -> dict[str, Any]:
    """Return what is published of a run folder."""
    data, export = run.parents[1] / "data", run / "export"
    grammars = [data / "manifests" / f"grammar.{suffix}" for suffix in ("yaml", "txt")]
    grammar = next((file for file in grammars if file.is_file()), None)
    decoded = sorted(file.parent for file in run.glob("grammar/*/hyp.jsonl") if file.parent.name != "dev")
    sizes = [file.stat().st_size for file in export.glob(INT8)]
    if grammar is None or not decoded or not sizes:
        raise UserError(
            f"{run} lacks a grammar, decoded test sets or an int8 export: run stages 7 to 9 of egs/phrases."
        )
    network, info = build(read_source(grammar)), read_model(run / MODEL_FILE).info
    made = Marker.read(marker_of(data / "raw"))
    training = {each.name: info[each.name] for each in fields(Training) if each.name in info}
    return {
        "domain": run.parents[1].name,
        "experiment": run.name,
        "sentences": count_sentences(network),
        "words": network.num_words,
        "slots": list(dict.fromkeys(slot.name for slot in network.slots)),
        "speech": portable(made.identity["command"]) if made else "",
        "parameters": info.get("parameters", {}).get("total"),
        "training": to_plain(Training(**{**training, "command": portable(training.get("command") or "")})),
        "sets": [asdict(score_decoded(folder, network)) for folder in decoded],
        "int8_bytes": sum(sizes),
        "grammar_bytes": (run / "grammar" / COMPILED).stat().st_size,
        "rtf": real_time_factor(export, run / "grammar" / COMPILED, cuts_file(data / "manifests", heard), seconds),
    }


def real_time_factor(export: Path, grammar: Path, cuts: Path, seconds: float) -> float:
    """Return the processor seconds of one thread for a second of audio; the first utterance is for warm-up."""
    model = residualformer.load(export, int8=True, threads=1)
    context = model.grammar(grammar)
    found = list(read_cuts(cuts, stage=1))
    first, *sounds = [(load_audio(cut)[0], cut.sampling_rate) for cut in found[: 1 + _enough(found, seconds)]]
    model.transcribe(*first, context=context)
    started = time.process_time()
    for samples, rate in sounds:
        model.transcribe(samples, rate, context=context)
    return (time.process_time() - started) / sum(len(samples) / rate for samples, rate in sounds)


def _enough(cuts: Sequence[Any], seconds: float) -> int:
    """Return how many of the cuts after the first last so long together."""
    ends = [sum(cut.duration for cut in cuts[1 : 1 + count]) for count in range(1, len(cuts))]
    return 1 + len(list(takewhile(lambda end: end < seconds, ends)))


def main() -> None:
    args = parse_args()
    publication = Publication(args.out, "phrases", "phrases.py")
    rows = [measure(run.resolve(), args.heard, args.seconds) for run in args.runs]
    file = args.out / "phrases.json" if args.out else None
    published = read_json(file, "repair it with git")["runs"] if file and file.is_file() else []
    new = {(row["domain"], row["experiment"]) for row in rows}
    rows += [row for row in published if (row["domain"], row["experiment"]) not in new]
    rows.sort(key=lambda row: (row["domain"], row["experiment"]))
    publication.write("Your own phrases", render(rows), {"runs": rows})


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="egs/NAME/exp/EXPERIMENT")
    parser.add_argument("--heard", default="test", metavar="SET", help="whose audio the time is measured on (test)")
    parser.add_argument("--seconds", type=float, default=60.0, help="so much of it (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder for phrases.json and PHRASES.md")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
