"""`residualformer params`: the size of the model that an experiment describes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from residualformer.config.loading import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="experiment, a YAML in conf/")
    target = "compress an encoder to one branch of this cost per frame, M FLOPs with the projection to the vocabulary"
    parser.add_argument("--mflop", type=float, metavar="M", help=target)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in it; repeatable")


def run(args: argparse.Namespace) -> None:
    """Print the parameter counts of an experiment, and the FLOPs per frame of its encoder, as JSON.

    With --mflop, first the compression at which one branch costs that.
    """
    config = load_config(args.config, args.set)
    # These import torch: an error in the configuration need not wait for it.
    from residualformer.model.cost import compressed_to, describe, planned_flops

    found = {}
    if args.mflop is not None:
        config = compressed_to(config, 1e6 * args.mflop - planned_flops(config)["output"])
        found = {"amnet.compression": config.amnet.compression}
    print(json.dumps(found | describe(config), indent=2))
