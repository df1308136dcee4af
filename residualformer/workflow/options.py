"""Options of the scripts: `argparse` whose mistakes are sentences, and types that say what a value must be.

It needs the standard library alone, so that `--help` works before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from residualformer.errors import UserError, closest

CALLED_FROM = "RESIDUALFORMER_CALLED_FROM"  # where relative paths begin: set by scripts that change the folder


class OptionParser(argparse.ArgumentParser):
    """A parser that raises UserError, names the closest option, and never takes a part of a name for the name."""

    def __init__(self, description: str | None = None, prog: str | None = None, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
        )

    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (-[^:/]+)[^:]*: (.*)", message, re.DOTALL)
        if match is None:
            raise UserError(f"{message}; --help lists all options")
        option, problem = match[1].split()[0], match[2]
        if problem.startswith("expected"):
            raise UserError(f"{option} needs a value; --help lists all options")
        raise UserError(f"{option} {problem}")

    def names(self) -> list[str]:
        """Return all options, such as `--jobs`."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def parse_args(  # type: ignore[override]
        self, words: Sequence[str] | None = None, also_known: Sequence[str] = ()
    ) -> argparse.Namespace:
        """Parse `words`; raise UserError unless all have a use. `also_known` are names to be suggested as well."""
        words = sys.argv[1:] if words is None else words
        known = self.names()
        valid = [*known, *also_known]
        options = words[: words.index("--")] if "--" in words else words
        for name in [word.partition("=")[0] for word in options if re.match("--.", word)]:
            if name not in known:
                raise _no_option(name, valid)
        args, rest = self.parse_known_args(words)
        if rest and rest[0].startswith("-"):
            raise _no_option(rest[0].partition("=")[0], valid)
        if rest:
            raise UserError(f"there is no use for the argument '{rest[0]}'; --help lists the options")
        return args


def _no_option(name: str, valid: Sequence[str]) -> UserError:
    return UserError(f"there is no option '{name}'.{closest(name, valid)} --help lists them all")


def nonempty(value: str) -> str:
    """Return a value that says something."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty; give it a value, or leave it out")
    return value


def whole_number(value: str) -> int:
    """Return a whole number, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,18}", nonempty(value)):
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be a whole number, 0 or more, of 18 digits at most")
    return int(value)


def positive_whole_number(value: str) -> int:
    """Return a whole number above 0."""
    if whole_number(value) == 0:
        raise argparse.ArgumentTypeError("is 0; give 1 or more")
    return whole_number(value)


def real_number(value: str) -> float:
    """Return a number, 0 or more."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", nonempty(value)):
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be a number, 0 or more")
    return float(value)


def positive_number(value: str) -> float:
    """Return a number above 0."""
    if real_number(value) <= 0:
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be above 0")
    return real_number(value)


def true_or_false(value: str) -> bool:
    """Return a truth value."""
    if nonempty(value) not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be true or false")
    return value == "true"


def one_of(*names: str) -> Callable[[str], str]:
    """Return a type whose values are `names`."""

    def check(value: str) -> str:
        if value not in names:
            advice = closest(value, names)
            raise argparse.ArgumentTypeError(f"is '{value}'; it must be one of {', '.join(names)}.{advice}")
        return value

    return check


def caller_path(value: str) -> Path:
    """Return an absolute path, in one spelling; a relative one is seen from the folder where the script was called."""
    return Path(os.path.normpath(os.path.join(os.environ.get(CALLED_FROM, os.getcwd()), nonempty(value))))


def setting(value: str) -> str:
    """Return a value of the configuration, `a.b=c`, or `@FILE` with the absolute path of FILE."""
    return f"@{caller_path(value[1:])}" if value.startswith("@") else nonempty(value)


def add_switch(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """Add an option that is true when it is given alone, and may be given as `true` or `false`."""
    parser.add_argument(name, type=true_or_false, nargs="?", const=True, default=False, metavar="true|false", help=help)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--set`, which may be repeated."""
    what = "another value in the configuration, such as encoder.dim=192, or @FILE; may be repeated"
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="A.B=C", help=what)


def wants_help(words: Sequence[str]) -> bool:
    """Return whether `--help` or `-h` is among the words of a command line."""
    return not {"-h", "--help"}.isdisjoint(words[: words.index("--")] if "--" in words else words)
