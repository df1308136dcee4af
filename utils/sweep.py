"""Train and decode many experiments of a recipe, one after another or several at once, each by its own run.sh.

Experiments that those given need are trained as well, each after what it needs. What is done is skipped, by the markers
of run.sh; an interrupted training goes on. A training that fails stops only those that need it. With GPUs there is one
training on each, or on every N with `--nproc N`; `--jobs N` runs N at once, each on its share of the processor cores.
"""

from __future__ import annotations

import argparse
import sys

from residualformer.errors import run_main
from residualformer.workflow.options import OptionParser, add_settings, add_switch, nonempty, whole_number
from residualformer.workflow.sweep import Sweep


def main() -> None:
    args = parse_arguments()
    sweep = Sweep(args.recipe, args.name, args.experiments, args.table, args.set, args.options, args.jobs, args.nproc)
    sys.exit(sweep.run(args.dry_run))


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    add = parser.add_argument
    add("--recipe", type=nonempty, required=True, help="whose egs/RECIPE/run.sh and conf/RECIPE/ are used")
    add("--name", type=nonempty, help="results are in egs/NAME (default: egs/RECIPE)")
    add("--table", action="append", default=[], help="all experiments of conf/tables/TABLE.yaml; may be repeated")
    add("--experiments", nargs="*", default=[], metavar="NAME", help="names in conf/RECIPE")
    add(
        "--jobs",
        type=whole_number,
        default=0,
        metavar="N",
        help="how many at once (as many as there are GPUs for, else one)",
    )
    add("--nproc", type=whole_number, default=0, metavar="N", help="processes of each training (those of run.sh)")
    add_switch(parser, "--dry-run", "only list what would be trained, and how long it takes")
    add_settings(parser)
    add("options", nargs="*", help="after `--`: further options of run.sh")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
