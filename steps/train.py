"""Stages 4-6: train one experiment, or go on with it where it stopped.

Reads DATA/fbank and DATA/lang; writes the run folder EXP (config.yaml, checkpoints/, train.log, metrics.jsonl,
tensorboard/, resume.sh and, at the end, model.safetensors). When EXP holds a run of another configuration, --if-changed
says what becomes of it; nothing is lost.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from residualformer.config.loading import load_config
from residualformer.config.schema import Config
from residualformer.lock import alone_in, held
from residualformer.model.device import add_device_option
from residualformer.model.identity import IF_CHANGED, IfChanged
from residualformer.train.launch import default_nproc, launch, run_rank
from residualformer.train.nodes import check_ranks, spread
from residualformer.train.ranks import is_rank, joined_ranks
from residualformer.train.setup import make_trainer
from residualformer.train.signals import Interrupted
from residualformer.workflow.options import OptionParser, positive_whole_number


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config, args.set)
    batches = config.train.batches_per_update
    nproc = args.nproc or default_nproc(batches // args.nodes, args.device)
    if is_rank() or nproc * args.nodes == 1:
        train(args, config)
        return
    check_ranks(nproc * args.nodes, batches)
    nodes = spread(args.nodes)
    with nullcontext() if nodes.number else alone_in(args.exp):
        sys.exit(launch(nproc, sys.argv, held(args.exp), nodes, args.exp.parent))


def train(args: argparse.Namespace, config: Config) -> None:
    """Train in this process, or as one of the ranks that torchrun has started."""
    script, changed = resume_script(args.if_changed), args.if_changed
    with joined_ranks(args.device) as ranks, alone_in(args.exp) if ranks.is_first else nullcontext():
        trainer = make_trainer(config, args.data, args.exp, args.warm_start, script, ranks, changed)
        if trainer is None:
            line = "trained already with this configuration; nothing to do"
        else:
            try:
                line = summary(trainer.run())
            except Interrupted:
                if ranks.is_first:
                    goes_on = f"the same command, or {args.exp}/resume.sh, goes on"
                    print(f"stopped at step {trainer.step} and saved: {goes_on}", flush=True)
                sys.exit(130)  # as a shell says of a program that Ctrl-C ended
        if ranks.is_first:
            print(f"{args.exp}: {line}")


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="experiment, a YAML in conf/")
    parser.add_argument("--data", type=Path, required=True, help="folder with fbank/ and lang/ (stages 2 and 3)")
    parser.add_argument("--exp", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--warm-start",
        type=Path,
        help="run folder or model file to start from (default: the sibling of EXP that the YAML names)",
    )
    processes = "processes (default: one for each GPU, or for each of OMP_NUM_THREADS, up to train.batches_per_update)"
    parser.add_argument("--nproc", type=positive_whole_number, metavar="N", help=processes)
    machines = "machines of a Slurm job, on each of which there are --nproc processes (default 1)"
    parser.add_argument("--nodes", type=positive_whole_number, default=1, metavar="N", help=machines)
    add_device_option(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override a configuration key; may be repeated"
    )
    parser.add_argument(
        "--if-changed",
        choices=IF_CHANGED,
        default="refuse",
        help="with a run of another configuration in EXP: stop (default); move it to old/; go on with the new values, "
        "which may be of train, data and dropout",
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
        parts.append(f"slow share {valid['slow_share']:.1%}")
    if info["valid"] != info["candidates"][0]["valid"]:
        chosen = next(each["name"] for each in info["candidates"] if each["valid"] == valid)
        parts.append(f"the {chosen}, the best on dev")
    if info["stopped_early"]:
        parts.append("ended early, as dev no longer improved")
    return ", ".join(parts)


def resume_script(if_changed: IfChanged) -> str:
    """Return a script that goes on with this very run, in the folder that the script is in.

    A run that was moved aside, because its place was needed for another one, goes on where it is, and moves nothing.
    """
    safely = ["--if-changed", "refuse" if if_changed == "aside" else if_changed]
    path = Path(__file__).resolve().parent.parent / "path.sh"
    lines = ["#!/usr/bin/env bash", "# Goes on with this run, in this folder, from its last checkpoint."]
    lines += ["set -euo pipefail", 'folder=$(CDPATH=\'\' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)']
    lines += [f"cd {shlex.quote(os.getcwd())}", f"RESIDUALFORMER_PYTHON={shlex.quote(sys.executable)}"]
    lines += [f". {shlex.quote(str(path))}", f'exec {shlex.join([sys.executable, *sys.argv, *safely])} --exp "$folder"']
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_rank(main)
