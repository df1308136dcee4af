"""Write one of the papers' tables with our numbers in it: egs/RECIPE/exp/tables/<table>.md, .json and .png.

It reads the decoding runs of the experiments that the table names (stage 7) and scores them; what was not decoded stays
empty. The tables are in conf/tables/. To train what is missing as well: local/reproduce.sh.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from residualformer.config.composition import experiment_names
from residualformer.config.loading import load_config
from residualformer.config.schema import DecodeConfig
from residualformer.decode.settings import search_name, settings_for
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.provenance import commit
from residualformer.report.paper_text import findings, render, show_picture
from residualformer.report.papers import Table, find_table
from residualformer.report.plots import table_lines
from residualformer.report.reproduce import reproduce
from residualformer.report.results import Results
from residualformer.report.scoring import find_runs, score_run, split_of, with_means
from residualformer.workflow.options import OptionParser


def main() -> None:
    args = parse_arguments()
    table = find_table(args.tables, args.table)
    sets = args.split.split() if args.split is not None else scored_sets(args.egs_dir)
    decode = {name: decode_config(args, name) for name in ("base", *table.experiments)}
    folders = [folder for folder in find_runs(args.egs_dir / "exp", sets) if folder.parent.name in table.experiments]
    folders = [folder for folder in folders if folder.name.endswith(tuple(searches(decode, table, folder)))]
    runs = with_means([score_run(folder) for folder in folders])
    if not runs:
        names = ", ".join(table.experiments)
        wanted = ", ".join(f"{name} ({search_name(settings_for(decode['base'], name))})" for name in sets)
        raise UserError(f"{args.egs_dir} holds none of {names} decoded on {wanted}; run stages 4 to 7 first")
    by_name = {(run.row.name, run.row.split): run for run in runs}
    result = replace(
        reproduce(table, by_name, sets),
        recipe=args.egs_dir.resolve().name,
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        commit=commit(),
    )
    result = replace(result, findings=findings(result))
    out = args.egs_dir / "exp" / "tables"
    write_json(out / f"{table.name}.json", result.to_dict())
    drawn = table_lines(result, out / f"{table.name}.png")
    write_text(out / f"{table.name}.md", render(result, show_picture(result) if drawn else ""))
    print(*result.findings, sep="\n")
    measured = len({run.row.experiment for run in runs})
    print(f"table: {table.source}, {measured} of {len(table.experiments)} experiments -> {out / table.name}.md")


def scored_sets(egs: Path) -> list[str]:
    """Return the test sets that stage 8 has scored, `test` if it has not run."""
    results = egs / "exp" / "results.json"
    return Results.read(results).sets if results.is_file() else ["test"]


def decode_config(args: argparse.Namespace, experiment: str) -> DecodeConfig:
    """Return the section `decode` of an experiment, or of the recipe where it lacks the experiment."""
    conf = args.conf or Path("conf", args.egs_dir.resolve().name)
    own = experiment if experiment in experiment_names(conf) else "base"
    return load_config(conf / f"{own}.yaml", args.set).decode


def searches(decode: dict[str, DecodeConfig], table: Table, folder: Path) -> list[str]:
    """Return how the folder of a decoding that the table shows may end: as its experiment asks for, and controls."""
    name = search_name(settings_for(decode[folder.parent.name], split_of(folder)))
    return [f"_{name}", *(f"_{name}_{control}" for control in table.arbitrator_controls())]


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the recipe's folder, which holds exp/")
    parser.add_argument("--table", required=True, help="1 to 6, amnets, or another file of --tables")
    parser.add_argument("--tables", type=Path, default=Path("conf/tables"), help="definitions (default: %(default)s)")
    parser.add_argument("--split", metavar="'SET ...'", help="test sets, the first judges (default: as last scored)")
    parser.add_argument("--conf", type=Path, help="configurations of the recipe (default: conf/ and its name)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as in stage 7: which search")
    args = parser.parse_args()
    if args.split is not None and not args.split.split():
        parser.error("--split is empty: give the name of a test set")
    return args


if __name__ == "__main__":
    run_main(main)
