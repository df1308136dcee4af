"""The command line of the package: `residualformer params` and `residualformer transcribe`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from residualformer.config.loading import load_config
from residualformer.errors import UserError, closest, run_main


def main() -> None:
    """Entry point of `residualformer` and `python -m residualformer`."""
    run_main(_main)


def _main() -> None:
    given = next(iter(sys.argv[1:]), "--help")
    command = given if given in _COMMANDS else None
    if command is None and not given.startswith("-"):
        raise UserError(f"there is no command '{given}'.{closest(given, _COMMANDS) or ' There are: ' + _names() + '.'}")
    parser = argparse.ArgumentParser(prog="residualformer", description="Small streaming transducers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, prepare) in _COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == command:  # a command's module is imported for that command only
            subparser.set_defaults(run=prepare(subparser))
    args = parser.parse_args(sys.argv[1:] or ["--help"])
    args.run(args)


def _params(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="experiment, a YAML in conf/")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in it; repeatable")
    return _print_params


def _print_params(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.set)
    from residualformer.model.cost import describe  # brings torch, which a wrong configuration need not wait for

    print(json.dumps(describe(config), indent=2))


def _transcribe(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    from residualformer import transcribe

    transcribe.add_arguments(parser)
    return transcribe.run


_COMMANDS = {
    "params": ("print the parameter counts of an experiment, and FLOPs per frame, as JSON", _params),
    "transcribe": ("transcribe audio files with a trained model", _transcribe),
}


def _names() -> str:
    return ", ".join(_COMMANDS)


if __name__ == "__main__":
    main()
