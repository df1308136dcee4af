"""Stage 8: score every decoding run of a corpus; write score.json, results.json, RESULTS.md and pictures.

Of another split than `test` they are named after it: results_dev.json, RESULTS_dev.md, ...
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from residualformer.data.validate import read_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.score.amnet import shared_utterance
from residualformer.score.plots import Track, decisions_and_backlog, training_curves, wer_against_parameters
from residualformer.score.results import (
    RECURRENT_BASELINE,
    TRANSFORMER_BASELINE,
    Scored,
    compare,
    find_runs,
    score_run,
)
from residualformer.score.table import aligned, render_markdown
from residualformer.train.record import commit


def main() -> None:
    args = parse_args()
    egs = args.egs_dir
    if not egs.is_dir():
        raise UserError(f"{egs} is not a folder: give the corpus's folder, such as egs/mini.")
    runs = [score_run(folder) for folder in find_runs(egs / "exp", args.split)]
    rows = compare(runs, args.baseline)
    results = {
        "corpus": egs.resolve().name,
        "split": args.split,
        "baseline": ", ".join(dict.fromkeys(row["baseline"] for row in rows)),
        "command": shlex.join(["local/score.sh", *sys.argv[1:]]),
        "commit": commit(),
        "rows": rows,
    }
    for row in rows:
        write_json(egs / "exp" / row["experiment"] / row["run"] / "score.json", row)
    of_split = "" if args.split == "test" else f"_{args.split}"
    written = egs / f"results{of_split}.json", egs / f"RESULTS{of_split}.md"
    write_json(written[0], results)
    write_text(written[1], render_markdown(results))
    draw(egs, results, runs, of_split)
    print(aligned(results))
    print(f"score: {len(runs)} decoding runs of {args.split} -> {written[0]}, {written[1]}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the corpus's folder, which holds exp/")
    parser.add_argument("--split", default="test", help="cuts that were decoded (default: %(default)s)")
    parser.add_argument(
        "--baseline",
        help="experiment that all others are compared with (default: Transformers with "
        f"'{TRANSFORMER_BASELINE}', recurrent encoders with '{RECURRENT_BASELINE}', where these exist)",
    )
    return parser.parse_args()


def draw(egs: Path, results: dict, runs: list[Scored], of_split: str) -> None:
    """Pictures beside the numbers."""
    wer_against_parameters(results, egs / f"wer_vs_params{of_split}.png")
    for name in {row["experiment"] for row in results["rows"]}:
        metrics = egs / "exp" / name / "metrics.jsonl"
        if metrics.exists():
            training_curves(metrics, metrics.with_name("training.png"))
    by_name = {run.row["experiment"]: run for run in runs if run.branched}  # decisions do not depend on the search
    names = dict.fromkeys(row["experiment"] for row in results["rows"])
    picture = egs / f"branches{of_split}.png"
    draw_decisions(egs, results, [by_name[name] for name in names if name in by_name], picture)


def draw_decisions(egs: Path, results: dict, runs: list[Scored], picture: Path) -> None:
    """Branches and backlog of all AmNets on one utterance, if there are any, and stage 2's features are still there."""
    manifest = egs / "data" / "fbank" / f"cuts_{results['split']}.jsonl.gz"
    chosen = shared_utterance([run.decisions for run in runs], runs[0].device.rho) if runs else None
    cuts = read_cuts(manifest, stage=2) if chosen is not None and manifest.exists() else []
    cut = next((cut for cut in cuts if cut.id == chosen and cut.has_features), None)
    if cut is None:
        return
    try:
        features = cut.load_features()
    except Exception as error:  # the storage back-ends raise errors of many libraries
        print(f"score: no {picture.name}, the features of {chosen} cannot be read ({error})", file=sys.stderr)
        return
    tracks = []
    for run in runs:
        taken, device = run.decisions[chosen], run.device
        name = run.row["experiment"]
        tracks.append(Track(name, taken, device.backlog_s(taken), 1 / device.rho, len(device.per_branch)))
    title = f"{results['corpus']}, {results['split']}: {chosen}"
    decisions_and_backlog(features, cut.frame_shift, tracks, title, picture)


if __name__ == "__main__":
    run_main(main)
