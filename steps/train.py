"""Stages 4-6: train one experiment, or go on with it where it stopped.

Reads DATA/fbank and DATA/lang; writes the run folder EXP (config.yaml, checkpoints/, train.log, metrics.jsonl,
tensorboard/, resume.sh and, at the end, model.safetensors). When EXP holds a run of another configuration, that one is
moved aside, not lost.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from residualformer.config.loading import load_config
from residualformer.errors import run_main
from residualformer.lock import alone_in
from residualformer.train.loop import Interrupted
from residualformer.train.setup import make_trainer


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config, args.set)
    with alone_in(args.exp):
        trainer = make_trainer(config, args.data, args.exp, args.warm_start, resume_script())
        if trainer is None:
            print(f"{args.exp}: trained already with this configuration; nothing to do")
            return
        try:
            print(f"{args.exp}: {summary(trainer.run())}")
        except Interrupted:
            print(f"stopped at step {trainer.step} and saved: the same command, or {args.exp}/resume.sh, goes on")
            sys.exit(130)  # as a shell says of a program that Ctrl-C ended


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="experiment, a YAML in conf/")
    parser.add_argument("--data", type=Path, required=True, help="folder with fbank/ and lang/ (stages 2 and 3)")
    parser.add_argument("--exp", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--warm-start", type=Path, help="run folder to start from (default: the sibling of EXP that the YAML names)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override a configuration key; may be repeated"
    )
    return parser.parse_args()


def summary(info: dict[str, Any]) -> str:
    """Return one line of a training record: steps, time, size, and how good the model is on the dev set."""
    valid = info["valid"]
    parts = [
        f"{info['steps']} steps in {info['wall_s'] / 60:.1f} min",
        f"{info['parameters']['total'] / 1e6:.2f}M parameters",
        f"dev {valid['transducer_per_token']:.3f} nats/token",
        *(f"{name} {value:.2f}" for name, value in valid.items() if name.startswith("greedy_")),
    ]
    if "slow_share" in valid:
        parts.append(f"{valid['slow_share']:.1%} of the frames slow")
    return ", ".join(parts)


def resume_script() -> str:
    """Return a script that goes on with this very run."""
    path = Path(__file__).resolve().parent.parent / "path.sh"
    lines = ["#!/usr/bin/env bash", "# Goes on with this run from its last checkpoint.", "set -euo pipefail"]
    lines += [f"cd {shlex.quote(os.getcwd())}", f"RESIDUALFORMER_PYTHON={shlex.quote(sys.executable)}"]
    lines += [f". {shlex.quote(str(path))}", f"exec {shlex.join([sys.executable, *sys.argv])}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_main(main)
