"""Stage 8: score every decoding run of a recipe; write score.json, results.json, RESULTS.md and pictures.

Several test sets share one table. Of a set whose splits are named `<set>@<subset>`, the table also holds the mean over
them. When only `dev` is scored, the files are results_dev.json, RESULTS_dev.md and so on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from residualformer.data.arrays import load_features
from residualformer.data.manifest import read_cuts
from residualformer.data.splits import cuts_file
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.provenance import commit
from residualformer.report.amnet import shared_utterance
from residualformer.report.compare import RECURRENT_BASELINE, TRANSFORMER_BASELINE, compare
from residualformer.report.plots import against_parameters, dev_losses, training_curves
from residualformer.report.results import Results
from residualformer.report.results_text import aligned, render_markdown, show_pictures
from residualformer.report.scoring import Scored, find_runs, read_words, score_run, with_means
from residualformer.report.timeline import Heard, Track, draw_timeline
from residualformer.workflow.options import OptionParser


def main() -> None:
    args = parse_args()
    egs, exp = args.egs_dir, args.egs_dir / "exp"
    if not egs.is_dir():
        raise UserError(f"{egs} is not a folder: give the recipe's folder, such as egs/mini.")
    sets = args.split.split()
    runs = with_means([score_run(folder) for folder in find_runs(exp, sets)])
    rows = compare(runs, args.baseline)
    results = Results(
        corpus=egs.resolve().name,
        split=", ".join(sets),
        baseline=", ".join(dict.fromkeys(row.baseline for row in rows)),
        command=shlex.join(["local/score.sh", *sys.argv[1:]]),
        commit=commit(),
        rows=rows,
    )
    for row in rows:
        if not row.subsets:
            write_json(exp / row.experiment / row.run / "score.json", row.to_dict())
    suffix = "_dev" if sets == ["dev"] else ""
    written = exp / f"results{suffix}.json", exp / f"RESULTS{suffix}.md"
    write_json(written[0], results.to_dict())
    pictures = draw(egs, results, runs, suffix)
    write_text(written[1], render_markdown(results, show_pictures(pictures)))
    print(aligned(results))
    print(f"score: {len(runs)} rows of {results.split} -> {written[0]}, {written[1]}")


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the recipe's folder, which holds exp/")
    parser.add_argument(
        "--split", default="test", metavar="'SET ...'", help="test sets that were decoded (default: %(default)s)"
    )
    parser.add_argument(
        "--baseline",
        help="experiment that all others are compared with (default: Transformers with "
        f"'{TRANSFORMER_BASELINE}', recurrent encoders with '{RECURRENT_BASELINE}', where these exist)",
    )
    args = parser.parse_args()
    if not args.split.split():
        parser.error("--split is empty: give the name of a test set")
    return args


def draw(egs: Path, results: Results, runs: Sequence[Scored], suffix: str) -> list[Path]:
    """Draw the pictures beside the numbers, and return those that belong to RESULTS.md."""
    exp = egs / "exp"
    pictures = against_parameters(results, exp, suffix)
    files = {name: exp / name / "metrics.jsonl" for name in results.experiments}
    metrics = {name: file for name, file in files.items() if file.exists()}
    for file in metrics.values():
        training_curves(file, file.with_name("training.png"))
    training, branches = exp / f"training{suffix}.png", exp / f"branches{suffix}.png"
    if dev_losses(metrics, training):
        pictures.append(training)
    # Any search will do: it does not change the branches that are taken.
    arbitrated = [run for run in runs if run.branched and not run.row.control]
    first = next((run.row.split for run in arbitrated), None)
    branched = {run.row.experiment: run for run in arbitrated if run.row.split == first}
    if branched and draw_utterance(egs, [branched[name] for name in results.experiments if name in branched], branches):
        pictures.append(branches)
    return pictures


def draw_utterance(egs: Path, runs: Sequence[Scored], picture: Path) -> bool:
    """Draw what models with an arbitrator did on an utterance that they share, if there is one."""
    split, devices = runs[0].row.split, [run.device for run in runs if run.device]
    chosen = shared_utterance([run.decisions for run in runs], 1 / devices[0].step_s)
    if chosen is None:
        return False
    tracks = [
        Track(run.row.experiment, run.decisions[chosen], run.device, run.config.encoder.depth.loops)
        for run in runs
        if run.device and run.config
    ]
    exp, rows = egs / "exp", [run.row for run in runs]
    told = ((row.experiment, read_words(exp / row.experiment / row.run / "hyp.jsonl", chosen)) for row in rows)
    recognizer, words = next((each for each in told if each[1]), ("", []))
    features = read_features(cuts_file(egs / "data" / "fbank", split), chosen)
    title = f"How hard the models work during one utterance: {egs.resolve().name}, {split}, {chosen}"
    draw_timeline(title, Heard(features, words, recognizer), tracks, picture)
    return True


def read_features(manifest: Path, utterance: str) -> np.ndarray | None:
    """Return an utterance's features (T, F) of stage 2; None where there are none, or with a line where damaged."""
    cuts = read_cuts(manifest, stage=2) if manifest.exists() else []
    cut = next((cut for cut in cuts if cut.id == utterance and cut.has_features), None)
    if cut is None:
        return None
    try:
        return load_features(cut)
    except (OSError, ValueError) as error:
        print(f"score: the features of {utterance} cannot be read, and are not drawn ({error})", file=sys.stderr)
        return None


if __name__ == "__main__":
    run_main(main)
