"""Stage 8: score every decoding run of a corpus; write score.json, results.json, RESULTS.md and pictures.

Several test sets share one table. Of a set whose splits are named `<set>@<subset>`, the mean over them is told as well.
When it is `dev` alone that is scored, the files are results_dev.json, RESULTS_dev.md and so on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from residualformer.data.splits import cuts_file
from residualformer.data.validate import read_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.provenance import commit
from residualformer.report.amnet import shared_utterance
from residualformer.report.plots import Track, against_parameters, decisions_and_backlog, dev_losses, training_curves
from residualformer.report.results import (
    RECURRENT_BASELINE,
    TRANSFORMER_BASELINE,
    Scored,
    compare,
    find_runs,
    score_run,
    with_means,
)
from residualformer.report.table import aligned, render_markdown


def main() -> None:
    args = parse_args()
    egs = args.egs_dir
    if not egs.is_dir():
        raise UserError(f"{egs} is not a folder: give the corpus's folder, such as egs/mini.")
    sets = args.split.split()
    runs = with_means([score_run(folder) for folder in find_runs(egs / "exp", sets)])
    rows = compare(runs, args.baseline)
    results = {
        "corpus": egs.resolve().name,
        "split": ", ".join(sets),
        "baseline": ", ".join(dict.fromkeys(row["baseline"] for row in rows)),
        "command": shlex.join(["local/score.sh", *sys.argv[1:]]),
        "commit": commit(),
        "rows": rows,
    }
    for row in (row for row in rows if "subsets" not in row):
        write_json(egs / "exp" / row["experiment"] / row["run"] / "score.json", row)
    of_split = "_dev" if sets == ["dev"] else ""
    exp = egs / "exp"
    written = exp / f"results{of_split}.json", exp / f"RESULTS{of_split}.md"
    write_json(written[0], results)
    write_text(written[1], render_markdown(results))
    draw(egs, results, runs, of_split)
    print(aligned(results))
    print(f"score: {len(runs)} rows of {results['split']} -> {written[0]}, {written[1]}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the corpus's folder, which holds exp/")
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


def draw(egs: Path, results: dict, runs: list[Scored], of_split: str) -> None:
    """Pictures beside the numbers."""
    rows = results["rows"]
    against_parameters(results, egs / "exp", of_split)
    files = {name: egs / "exp" / name / "metrics.jsonl" for name in dict.fromkeys(row["experiment"] for row in rows)}
    metrics = {name: file for name, file in files.items() if file.exists()}
    for file in metrics.values():
        training_curves(file, file.with_name("training.png"))
    dev_losses(metrics, egs / "exp" / f"training{of_split}.png")
    first = next((run.row["split"] for run in runs if run.branched), None)  # of the sets
    # Decisions do not depend on the search.
    by_name = {run.row["experiment"]: run for run in runs if run.branched and run.row["split"] == first}
    names = dict.fromkeys(row["experiment"] for row in results["rows"])
    picture = egs / "exp" / f"branches{of_split}.png"
    if by_name:
        draw_decisions(egs, first, [by_name[name] for name in names if name in by_name], picture)


def draw_decisions(egs: Path, split: str, runs: list[Scored], picture: Path) -> None:
    """Branches and backlog of AmNets on one utterance, if they share one and stage 2's features are still there."""
    manifest = cuts_file(egs / "data" / "fbank", split)
    chosen = shared_utterance([run.decisions for run in runs], runs[0].device.rho)
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
    title = f"{egs.resolve().name}, {split}: {chosen}"
    decisions_and_backlog(features, cut.frame_shift, tracks, title, picture)


if __name__ == "__main__":
    run_main(main)
