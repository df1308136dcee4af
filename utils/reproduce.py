"""Tables of the papers, measured: train what is missing, decode, score, and write egs/<recipe>/exp/tables/table<N>.md
with our numbers beside the paper's.

  local/reproduce.sh --table 3 --corpus mini_deep
  local/reproduce.sh --table "1 3 5 6" --corpus mini_deep --dry-run     what would be trained, and how long it takes
  local/reproduce.sh --table amnets --corpus an4 -- --corpus-dir DIR    after -- : options of egs/<recipe>/run.sh
  local/reproduce.sh --table 3 --corpus custom --name french -- --data DIR    your own data, in egs/french

Interrupted, the same command goes on where it stopped; what is done is skipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from residualformer.errors import UserError, run_main
from residualformer.workflow.options import (
    OptionParser,
    add_settings,
    add_switch,
    nonempty,
    true_or_false,
    wants_help,
    whole_number,
)


def main() -> None:
    args = parse_arguments()
    from residualformer.workflow.sweep import Sweep  # not before: help needs no installed package

    sets = [word for each in args.set for word in ("--set", each)]
    options = [*(["--test-set", args.test_set] if args.test_set else []), *args.options]
    status = 0
    if args.train or args.dry_run:
        sweep = Sweep(args.corpus, args.name, (), args.table.split(), args.set, options, args.jobs, args.nproc)
        status = sweep.run(args.dry_run)
        if args.dry_run or status > 1:  # 1: some trainings failed, the others can be shown
            sys.exit(status)
        scored = subprocess.run([*sweep.command(), "--stage", "8", "--stop-stage", "8"]).returncode
        status = scored or status
    egs = f"egs/{args.name or args.corpus}"
    split = ["--split", args.test_set] if args.test_set else []
    for table in args.table.split():
        command = ["steps/table.py", egs, "--conf", f"conf/{args.corpus}", "--table", table, *split, *sets]
        status = subprocess.run([sys.executable, *command]).returncode or status
    sys.exit(status)


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__, prog="local/reproduce.sh")
    add = parser.add_argument
    tables = "1 to 6: those of ResidualTransformer (2 and 4 for translation); amnets: table 1 of AmNets"
    add("--table", type=nonempty, required=True, metavar="'TABLE ...'", help=tables)
    add(
        "--corpus",
        type=nonempty,
        default="mini",
        metavar="RECIPE",
        help="whose egs/RECIPE and conf/RECIPE (%(default)s)",
    )
    add("--name", type=nonempty, help="your own data: the --name of egs/custom/run.sh")
    judges = "test sets; the orderings are judged on the first (those of egs/RECIPE/run.sh)"
    add("--test-set", type=nonempty, metavar="'SET ...'", help=judges)
    add_settings(parser)
    add("--jobs", type=whole_number, default=0, metavar="N", help="trainings at once (as many as GPUs allow, else one)")
    add("--nproc", type=whole_number, default=0, metavar="N", help="processes of each training (those of run.sh)")
    add("--train", type=true_or_false, default=True, metavar="true|false", help="false: the tables of what is there")
    add_switch(parser, "--dry-run", "only list what would be trained")
    add("options", nargs="*", help="after `--`: options of egs/RECIPE/run.sh")
    words = sys.argv[1:]
    if wants_help(words):
        words = ["--help"]
    args = parser.parse_args(words)
    for each in args.options:
        if each.partition("=")[0] == "--name":
            raise UserError(f"{each}: give it before the --, or its results are not found")
    return args


if __name__ == "__main__":
    run_main(main)
