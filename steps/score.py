"""Stage 8: score every decoding run of a corpus; write score.json, results.json, RESULTS.md and pictures."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.score.plots import training_curves, wer_against_parameters
from residualformer.score.results import compare, find_runs, score_run
from residualformer.score.table import aligned, render_markdown
from residualformer.train.record import commit

DEFAULT_BASELINE = "baseline"


def main() -> None:
    args = parse_args()
    egs = args.egs_dir
    if not egs.is_dir():
        raise UserError(f"{egs} is not a folder: give the corpus's folder, such as egs/mini.")
    baseline = args.baseline or DEFAULT_BASELINE
    scored = [(folder, score_run(folder)) for folder in find_runs(egs / "exp", args.split)]
    # The baseline first, then what was trained from scratch, then what starts from that; else by name.
    scored.sort(key=lambda pair: (pair[1].row["experiment"] != baseline, pair[1].row["warm_start"]))
    folders, runs = zip(*scored, strict=True)
    rows = compare(runs, baseline, required=args.baseline is not None)
    results = {
        "corpus": egs.resolve().name,
        "split": args.split,
        "baseline": baseline,
        "command": shlex.join(["local/score.sh", *sys.argv[1:]]),
        "commit": commit(),
        "rows": rows,
    }
    for folder, row in zip(folders, rows, strict=True):
        write_json(folder / "score.json", row)
    write_json(egs / "results.json", results)
    write_text(egs / "RESULTS.md", render_markdown(results))
    draw(egs, results)
    print(aligned(results))
    print(f"score: {len(runs)} decoding runs of {args.split} -> {egs / 'results.json'}, {egs / 'RESULTS.md'}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the corpus's folder, which holds exp/")
    parser.add_argument("--split", default="test", help="cuts that were decoded (default: %(default)s)")
    parser.add_argument(
        "--baseline", help=f"experiment that the others are compared with (default: {DEFAULT_BASELINE}, if it exists)"
    )
    return parser.parse_args()


def draw(egs: Path, results: dict) -> None:
    """Pictures beside the numbers."""
    wer_against_parameters(results, egs / "wer_vs_params.png")
    for name in {row["experiment"] for row in results["rows"]}:
        metrics = egs / "exp" / name / "metrics.jsonl"
        if metrics.exists():
            training_curves(metrics, metrics.with_name("training.png"))


if __name__ == "__main__":
    run_main(main)
