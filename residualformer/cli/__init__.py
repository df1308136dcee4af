"""The command line of the package: `residualformer transcribe`, `demo` and others."""

from __future__ import annotations

import sys
from importlib import import_module

from residualformer.errors import UserError, closest, run_main
from residualformer.optional import extras_needed
from residualformer.workflow.options import OptionParser

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
    if command in COMMANDS:
        parser = OptionParser(COMMANDS[command], f"residualformer {command}")
        module = import_module(f"{__name__}.{command}")  # that of this command alone
        module.add_arguments(parser)
        module.run(parser.parse_args(arguments[1:]))
        return
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = OptionParser(
        f"Small streaming transducers.\n\ncommands, each with its own --help:\n{listed}", "residualformer"
    )
    parser.add_argument("command", metavar="COMMAND")
    parser.parse_args(arguments)
