"""Check the configurations of a corpus's experiments before anything runs, and say when each is trained.

Prints one line an experiment: its name, the stage (6 with compressed weights or branches, 5 with a residual or a warm
start, else 4), and the experiments that it needs: the one whose weights it starts from, the teacher of its arbitrator,
the one whose share of slow frames it matches. An experiment comes after those of the others that it needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.config.composition import experiment_names
from residualformer.config.loading import load_config
from residualformer.config.schema import Config
from residualformer.errors import UserError, closest, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="conf/<corpus>, which holds <experiment>.yaml")
    parser.add_argument("experiments", nargs="+", help="names of experiments, in the order of training")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in all of them")
    args = parser.parse_args()
    load_config(args.folder / "base.yaml", args.set)
    configs = {name: load_config(_file(args.folder, name), args.set) for name in args.experiments}
    for name, config in configs.items():
        for needed in needs(config):
            _file(args.folder, needed, f", which {name} needs")
    for name in in_order({name: needs(config) for name, config in configs.items()}):
        print(name, stage(configs[name]), *needs(configs[name]))


def stage(config: Config) -> int:
    """The stage that trains an experiment."""
    if config.amnet.method != "none":
        return 6
    return 5 if config.warm_start or config.encoder.residual.rank or config.encoder.residual.diagonal else 4


def needs(config: Config) -> list[str]:
    """The experiments that are to be trained before, each once."""
    amnet = config.amnet
    return list(dict.fromkeys(filter(None, [config.warm_start, amnet.arbitrator.teacher, amnet.cost.match])))


def in_order(needed: dict[str, list[str]]) -> list[str]:
    """The experiments in the order given, but each after those that it needs, where these are among them."""
    done: list[str] = []

    def add(name: str, needed_by: tuple[str, ...] = ()) -> None:
        if name in needed_by:
            raise UserError(f"of the experiments {' -> '.join([*needed_by, name])} each needs the next, without end")
        for before in needed[name]:
            if before in needed and before not in done:
                add(before, (*needed_by, name))
        if name not in done:
            done.append(name)

    for name in needed:
        add(name)
    return done


def _file(folder: Path, name: str, why: str = "") -> Path:
    known = experiment_names(folder)
    if name not in known:
        advice = closest(name, known) or f" There are: {', '.join(known) or 'none'}."
        where = f"neither {folder} nor the list of experiments in its base.yaml has it"
        raise UserError(f"there is no experiment '{name}'{why}: {where}.{advice}")
    return folder / f"{name}.yaml"


if __name__ == "__main__":
    run_main(main)
