"""`residualformer params`: the size of the model that an experiment describes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from residualformer.config.loading import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="experiment, a YAML in conf/")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in it; repeatable")


def run(args: argparse.Namespace) -> None:
    """Print the parameter counts of an experiment, and the FLOPs per frame of a recurrent encoder, as JSON."""
    config = load_config(args.config, args.set)
    from residualformer.model.cost import describe  # imports torch: an error in the configuration need not wait for it

    print(json.dumps(describe(config), indent=2))
