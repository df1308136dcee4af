"""Stages 4-6: train one experiment, or go on with it where it stopped.

Reads DATA/fbank and DATA/lang; writes the run folder EXP (config.yaml, checkpoints/, train.log, metrics.jsonl,
tensorboard/, resume.sh and, at the end, model.pt). When EXP holds a run of another configuration, that one is moved
aside, not lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from residualformer.config.loading import config_from_dict, config_to_dict, dump_config, load_config
from residualformer.config.schema import Config, EncoderConfig, TokenConfig
from residualformer.data.features import read_cmvn, read_feature_config
from residualformer.data.splits import cuts_file
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError, run_main
from residualformer.files import set_aside, write_text
from residualformer.lock import alone_in
from residualformer.model import checkpoint
from residualformer.train.loop import Interrupted, Trainer
from residualformer.train.teacher import Teacher
from residualformer.train.warm_start import refuse_other_use

log = logging.getLogger("residualformer")


def main() -> None:
    args = parse_arguments()
    config = load_config(args.config, args.set)
    with alone_in(args.exp):
        train(args, config)


def train(args: argparse.Namespace, config: Config) -> None:
    """Train the experiment, unless it is trained, and tell what came of it."""
    source = warm_start_source(config, args)
    tokenizer = read_tokens(args.data / "lang" / "tokenizer.json", config.tokens)
    weights = warm_start_weights(source, tokenizer, config.encoder) if source else {}
    features = read_feature_config(args.data / "fbank")
    if features != config.features:
        raise UserError(f"{args.data}/fbank holds {features}, but {config.features} is configured; run stage 2 again")
    teacher, slow_share = teacher_of(config, args.exp), slow_share_to_match(config, args.exp)
    identity = run_identity(config, tokenizer, weights, teacher, slow_share)
    if not prepare_folder(args.exp, identity):
        print(f"{args.exp}: trained already with this configuration; nothing to do")
        return
    dump_config(config, args.exp / "config.yaml")
    write_text(args.exp / "resume.sh", resume_script())
    log_to(args.exp / "train.log")
    cuts = {name: cuts_file(args.data / "fbank", name) for name in ("train", "dev")}
    cmvn = read_cmvn(args.data / "fbank")
    teacher = Teacher(teacher, config) if teacher else None
    trainer = Trainer(config, tokenizer, cuts, cmvn, args.exp, identity, teacher, slow_share)
    if trainer.resume():
        log.info("going on from step %d", trainer.step)
    elif source:
        report = trainer.warm_start(weights, str(source))
        write_text(args.exp / "warm_start.txt", "\n".join(report.lines()) + "\n")
        log.info("warm start from %s: %d keys mapped, %d converted, %d fresh, all listed in %s", source,
                 len(report.mapped), len(report.converted), len(report.fresh), args.exp / "warm_start.txt")  # fmt: skip
    warn_of_warmup(config.train.optimizer.warmup_steps, config.train.max_steps)
    try:
        info = trainer.run()
    except Interrupted:
        print(f"stopped at step {trainer.step} and saved: the same command, or {args.exp}/resume.sh, goes on")
        sys.exit(130)  # as a shell says of a program that Ctrl-C ended
    valid, millions = info["valid"], info["parameters"]["total"] / 1e6
    print(f"{args.exp}: {info['steps']} steps in {info['wall_s'] / 60:.1f} min, {millions:.2f}M parameters, "
          f"dev {valid['transducer_per_token']:.3f} nats/token, "
          + ", ".join(f"{name} {value:.2f}" for name, value in valid.items() if name.startswith("greedy_"))
          + (f", {valid['slow_share']:.1%} of the frames slow" if "slow_share" in valid else ""))  # fmt: skip


def warn_of_warmup(warmup_steps: int, max_steps: int) -> None:
    if warmup_steps >= max_steps:
        log.warning("the learning rate never peaks: train.optimizer.warmup_steps = %d, but train.max_steps = %d",
                    warmup_steps, max_steps)  # fmt: skip


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


def warm_start_source(config: Config, args: argparse.Namespace) -> Path | None:
    """The model file to start from, if the experiment starts from one."""
    if args.warm_start is None and config.warm_start is None:
        return None
    return needed_model(args.warm_start or args.exp.parent / config.warm_start, f"{args.exp} starts from")


def teacher_of(config: Config, exp: Path) -> Path | None:
    """The model file of the arbitrator's teacher, if the training begins with that."""
    arbitrator = config.amnet.arbitrator
    if not arbitrator.pretrain_steps:
        return None
    return needed_model(exp.parent / arbitrator.teacher, f"the arbitrator of {exp} learns from")


def slow_share_to_match(config: Config, exp: Path) -> float | None:
    """The share of slow frames on the dev set that is sought: as stated, or that of the experiment that is named."""
    if config.amnet.cost.match is None:
        return config.amnet.cost.slow_share
    file = needed_model(exp.parent / config.amnet.cost.match, f"{exp} matches the share of slow frames of")
    share = checkpoint.load(file, "info")["info"]["valid"].get("slow_share")
    if share is None:
        raise UserError(f"{file} has no slow frames whose share could be matched; name another in amnet.cost.match")
    return share


def needed_model(run: Path, why: str) -> Path:
    """The model file of the run folder `run`."""
    if not (run / checkpoint.MODEL_FILE).is_file():
        raise UserError(f"{why} {run}, which holds no {checkpoint.MODEL_FILE}: train it first")
    return run / checkpoint.MODEL_FILE


def warm_start_weights(source: Path, tokenizer: Tokenizer, encoder: EncoderConfig) -> dict[str, Any]:
    """The weights of the model file `source`, with the tokens of `tokenizer` and for the layers of `encoder`."""
    value = checkpoint.load(source, "weights", "tokenizer", "config")
    if checkpoint.model_tokenizer(value, source).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{source} writes other tokens than those of stage 3; train it again first")
    refuse_other_use(encoder, config_from_dict(value["config"], str(source)).encoder, str(source))
    return value["weights"]


def read_tokens(path: Path, config: TokenConfig) -> Tokenizer:
    """The token set in `path`, which must be as configured."""
    tokenizer = Tokenizer.load(path)
    if tokenizer.kind != config.kind or (config.kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{path} holds {tokenizer.vocab_size} tokens of kind {tokenizer.kind}, but tokens.kind = {config.kind} and "
            f"tokens.vocab_size = {config.vocab_size} are configured; run stage 3 again, with --overwrite"
        )
    return tokenizer


def run_identity(
    config: Config, tokenizer: Tokenizer, weights: dict[str, Any], teacher: Path | None, slow_share: float | None
) -> dict[str, Any]:
    """What makes two runs the same run: all that decides the weights."""
    decisive = {name: value for name, value in config_to_dict(config).items() if name not in ("description", "decode")}
    identity = {"config": decisive, "tokens": tokenizer.fingerprint, "warm_start": checkpoint.fingerprint(weights)}
    if teacher:
        identity["teacher"] = checkpoint.fingerprint(checkpoint.load(teacher, "weights")["weights"])
    return identity | ({"slow_share": slow_share} if slow_share is not None else {})


def prepare_folder(folder: Path, identity: dict[str, Any]) -> bool:
    """Make `folder` ready for a run of this identity; false when it is finished already."""
    finished, resume = folder / checkpoint.MODEL_FILE, folder / "checkpoints" / "resume.pt"
    if finished.is_file():
        held = checkpoint.load(finished, "info")["info"].get("identity")
    elif resume.is_file():
        held = checkpoint.load(resume, "identity")["identity"]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        return True
    if not checkpoint.same_run(held, identity):
        print(f"{folder}: configuration, tokens or warm start changed; the old run is kept in {set_aside(folder)}")
        folder.mkdir()
        return True
    return not finished.is_file()


def resume_script() -> str:
    """A script that goes on with this very run."""
    path = Path(__file__).resolve().parent.parent / "path.sh"
    lines = ["#!/usr/bin/env bash", "# Goes on with this run from its last checkpoint.", "set -euo pipefail"]
    lines += [f"cd {shlex.quote(os.getcwd())}", f"RESIDUALFORMER_PYTHON={shlex.quote(sys.executable)}"]
    lines += [f". {shlex.quote(str(path))}", f"exec {shlex.join([sys.executable, *sys.argv])}"]
    return "\n".join(lines) + "\n"


class AboveTheBar(logging.Handler):
    """Log lines on stderr that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(path: Path) -> None:
    """Log to the terminal and to `path`, each line with the time of day."""
    log.setLevel(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    for handler in (AboveTheBar(), logging.FileHandler(path)):
        handler.setFormatter(formatter)
        log.addHandler(handler)


if __name__ == "__main__":
    run_main(main)
