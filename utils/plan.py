"""Check the configurations of a corpus's experiments before anything runs, and say which stage trains each.

Prints one line an experiment: its name, the stage (5 with a residual or a warm start, else 4), and the experiment
whose weights it starts from (or `-`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.config import load_config
from residualformer.errors import UserError, closest, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="conf/<corpus>, which holds <experiment>.yaml")
    parser.add_argument("experiments", nargs="+", help="names of experiments, in the order of training")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in all of them")
    args = parser.parse_args()
    load_config(args.folder / "base.yaml", args.set)
    for name in args.experiments:
        path = args.folder / f"{name}.yaml"
        if not path.is_file():
            known = [file.stem for file in args.folder.glob("*.yaml") if file.stem != "base"]
            advice = closest(name, known) or f" There are: {', '.join(sorted(known)) or 'none'}."
            raise UserError(f"there is no experiment '{name}': {path} is not a file.{advice}")
        config = load_config(path, args.set)
        residual = config.encoder.residual
        late = config.warm_start or residual.rank or residual.diagonal
        print(name, 5 if late else 4, config.warm_start or "-")


if __name__ == "__main__":
    run_main(main)
