"""The command line of the package: `residualformer transcribe`, `demo` and others."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from residualformer.errors import UserError, closest, run_main
from residualformer.optional import extras_needed

# A command `name` is the module cli/name.py, with `add_arguments(parser)` and `run(args)`.
COMMANDS = {
    "adapter": "write the difference of an adapted model and its base, or both as one model",
    "demo": "serve a local page to try an exported model on, with a microphone and files",
    "grammar": "show what a grammar allows, or compile it for a model",
    "params": "print the parameter counts of an experiment, and FLOPs per frame, as JSON",
    "release": "write a trained model as a file to pass on, half as large",
    "score": "error rates of a model on recordings with transcripts",
    "transcribe": "transcribe audio files or live audio with a trained or exported model",
}


def main() -> None:
    """Run the command line `residualformer` or `python -m residualformer`."""
    run_main(_main)


@extras_needed()
def _main() -> None:
    arguments = sys.argv[1:] or ["--help"]
    command = arguments[0]
    if command not in COMMANDS and not command.startswith("-"):
        advice = closest(command, COMMANDS) or f" There are: {', '.join(COMMANDS)}."
        raise UserError(f"there is no command '{command}'.{advice}")
    parser = argparse.ArgumentParser(prog="residualformer", description="Small streaming transducers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == command:  # only this command's module is imported
            module = import_module(f"{__name__}.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    args.run(args)
