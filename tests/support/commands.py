"""Commands of the package and steps of the recipe, run in this process."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import pytest

from residualformer.cli.transcribe import add_arguments, run

DECODE = Path(__file__).parents[2] / "steps" / "decode.py"


def transcribe(*arguments: object) -> None:
    """Run `residualformer transcribe` with `arguments`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(argument) for argument in arguments]))


def decode_step(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run stage 7 with `arguments`."""
    monkeypatch.setattr(sys, "argv", ["decode.py", *map(str, arguments)])
    runpy.run_path(str(DECODE), run_name="__main__")
