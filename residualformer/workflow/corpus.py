"""The contract between the stages and the program of a corpus, local/<corpus>.py.

    local/<corpus>.py options -- ARGS           check ARGS; print, as JSON, what the other two commands take of them
    local/<corpus>.py options --help            list the options of the corpus
    local/<corpus>.py obtain --out RAW ...      stage 0: find, fetch or make the corpus
    local/<corpus>.py manifests --corpus RAW --out DIR ...      stage 1: validated Lhotse cuts

So a corpus declares its own options, and the stages know none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from residualformer.errors import UserError
from residualformer.workflow.options import OptionParser, one_of, positive_whole_number

Command = Callable[[argparse.Namespace], None]
Declare = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class CorpusOptions:
    """The arguments that the options of a corpus turn into.

    Attributes:
        obtain: arguments of `obtain`.
        manifests: arguments of `manifests`.
        inputs: files and folders that the corpus is made of and that may change, so that `obtain` must run again.
    """

    obtain: list[str]
    manifests: list[str]
    inputs: list[str]


def ask_options(program: Path, words: Sequence[str], also_known: Sequence[str]) -> CorpusOptions:
    """Return what the options `words` mean to the program of a corpus.

    Args:
        also_known: options of the caller, to be suggested for a mistyped one.

    Raises:
        UserError: the program has refused them; it has told why.
    """
    command = [sys.executable, str(program), "options", "--also-known", " ".join(also_known), "--", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: ") or f"{program} ended with {done.returncode}")
    return CorpusOptions(**json.loads(done.stdout))


def options_help(program: Path) -> str:
    """Return the help on the options of a corpus, or why there is none."""
    done = subprocess.run([sys.executable, str(program), "options", "--help"], capture_output=True, text=True)
    if done.returncode:
        return f"The options of {program} are listed once the packages are installed, which any stage does."
    return done.stdout.partition("\n\n")[2]


def run_program(
    description: str | None,
    obtain: Command,
    manifests: Command,
    options: Declare = lambda parser: None,
    of_manifests: Sequence[str] = (),
    inputs: Callable[[argparse.Namespace], list[Path]] = lambda args: [],
    further: Mapping[str, tuple[Command, Declare]] = {},
) -> None:
    """Be the main program of a corpus.

    Args:
        obtain, manifests: its commands; their arguments hold `out`, `jobs` and the options, those of `manifests` also
            `corpus`, the `out` of `obtain`.
        options: adds the options of the corpus to a parser.
        of_manifests: names of the options that decide what `manifests` writes, and of all that a parser
            requires; `obtain` is given all.
        inputs: gives the files and folders of the user, by the options, whose change means another corpus.
        further: commands of this corpus alone, which get the options, and what adds options of their own.
    """
    command, *words = sys.argv[1:] or ["--help"]
    name = Path(sys.argv[0]).name
    if command == "options":
        also_known = words[1].split() if words[:1] == ["--also-known"] else []
        words = words[2:] if also_known else words
        parser = _parser(description, f"{name} options --", options)
        args = parser.parse_args(words[words[:1] == ["--"] :], also_known)
        given = vars(args)
        few = {key: given[key] for key in ("jobs", *of_manifests)}
        told = CorpusOptions(_as_words(given), _as_words(few), [str(path) for path in inputs(args)])
        print(json.dumps(asdict(told)))
    elif command in ("obtain", "manifests"):
        parser = _parser(description, f"{name} {command}", options)
        parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is made")
        if command == "manifests":
            parser.add_argument("--corpus", required=True, metavar="DIR", help="the --out of obtain")
        (obtain if command == "obtain" else manifests)(parser.parse_args(words))
    elif command in further:
        run, own_options = further[command]
        parser = _parser(description, f"{name} {command}", options)
        own_options(parser)
        args = parser.parse_args(words)
        inputs(args)  # checks them
        run(args)
    else:
        parser = OptionParser(description, name)
        commands = one_of("options", "obtain", "manifests", *further)
        parser.add_argument("command", type=commands, help="each has its own --help")
        parser.parse_args([command])


def _parser(description: str | None, name: str, options: Declare) -> OptionParser:
    parser = OptionParser(description, name)
    options(parser)
    parser.add_argument(
        "--jobs", type=positive_whole_number, default=1, metavar="N", help="processes (default %(default)s)"
    )
    return parser


def _as_words(values: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line: a list as an option for each value, and nothing without a value."""
    words = []
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                words += [f"--{name.replace('_', '-')}", str(each).lower() if isinstance(each, bool) else str(each)]
    return words
