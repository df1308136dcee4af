"""The set-up of a training: the models it starts from and learns from, its run folder, its log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from residualformer.config.loading import dump_config
from residualformer.config.schema import Config, EncoderConfig, TokenConfig
from residualformer.constants import MODEL_FILE
from residualformer.data.features import read_cmvn, read_feature_config
from residualformer.data.splits import cuts_file, train_source
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.files import set_aside, write_text
from residualformer.model import checkpoint
from residualformer.model.identity import is_same_training, training_identity
from residualformer.train.loop import Trainer
from residualformer.train.ranks import Ranks
from residualformer.train.state import CheckpointFolder
from residualformer.train.teacher import Teacher
from residualformer.train.warm_start import check_same_layers

log = logging.getLogger("residualformer")


def make_trainer(
    config: Config, data: Path, folder: Path, warm_start: Path | None, resume_script: str, ranks: Ranks
) -> Trainer | None:
    """Return the trainer of `config` in the run folder `folder`, at its start or where an earlier call stopped.

    All that the training needs is read and checked before the run folder is touched. A run of another configuration
    that is there is moved aside; if it holds the finished model of this one, the result is None.

    Args:
        data: folder with fbank/ and lang/ (stages 2 and 3).
        warm_start: run folder to start from, instead of the sibling of `folder` that the configuration names.
        resume_script: content of resume.sh, which goes on with this run.
        ranks: the processes of the training, which all call this.

    Raises:
        UserError: the features or tokens are not those of `config`, or a model that it needs is missing or unfit.
    """
    source, fbank = None, data / "fbank"
    if warm_start is not None or config.warm_start is not None:
        source = needed_model(warm_start or folder.parent / str(config.warm_start), f"{folder} starts from")
    tokenizer = read_tokens(data / "lang" / "tokenizer.json", config.tokens)
    weights = warm_start_weights(source, tokenizer, config.encoder) if source else {}
    features = read_feature_config(fbank)
    if features != config.features:
        raise UserError(f"{fbank} holds {features}, but {config.features} is configured; run stage 2 again")
    teacher, slow_share = teacher_of(config, folder), slow_share_to_match(config, folder)
    identity = training_identity(
        config,
        tokens=tokenizer.fingerprint,
        warm_start=checkpoint.fingerprint(weights),
        teacher=checkpoint.fingerprint(checkpoint.read_model(teacher).weights) if teacher else None,
        slow_share=slow_share,
    )
    if not ranks.of_first(ranks.is_first and prepare_folder(folder, identity)):
        return None
    if ranks.is_first:
        dump_config(config, folder / "config.yaml")
        write_text(folder / "resume.sh", resume_script)
        log_to(folder / "train.log")
    else:
        log.propagate = False
        log.addHandler(logging.NullHandler())
    cuts, cmvn = {"train": train_source(fbank), "dev": cuts_file(fbank, "dev")}, read_cmvn(fbank)
    taught_by = Teacher(teacher, config) if teacher else None
    trainer = Trainer(config, tokenizer, cuts, cmvn, folder, identity, taught_by, slow_share, ranks)
    if trainer.resume():
        log.info("going on from step %d", trainer.step)
    elif source:
        report, listed = trainer.warm_start(weights, str(source)), folder / "warm_start.txt"
        if ranks.is_first:
            write_text(listed, "\n".join(report.lines()) + "\n")
        counts = f"{len(report.mapped)} keys mapped, {len(report.converted)} converted, {len(report.fresh)} fresh"
        log.info("warm start from %s: %s; %s lists them", source, counts, listed)
    warn_of_warmup(config.train.optimizer.warmup_steps, config.train.max_steps)
    return trainer


def teacher_of(config: Config, folder: Path) -> Path | None:
    """Return the model file of the arbitrator's teacher, if the training begins with learning from one."""
    arbitrator = config.amnet.arbitrator
    if not arbitrator.pretrain_steps:
        return None
    return needed_model(folder.parent / str(arbitrator.teacher), f"the arbitrator of {folder} learns from")


def slow_share_to_match(config: Config, folder: Path) -> float | None:
    """Return the share of slow frames on the dev set to reach: as stated, or that of the experiment to match."""
    if config.amnet.cost.match is None:
        return config.amnet.cost.slow_share
    file = needed_model(folder.parent / config.amnet.cost.match, f"{folder} matches the share of slow frames of")
    share = checkpoint.read_model(file).info.get("valid", {}).get("slow_share")
    if share is None:
        raise UserError(f"{file} has no slow frames whose share could be matched; name another in amnet.cost.match")
    return float(share)


def needed_model(run: Path, why: str) -> Path:
    """Return the model file of a run folder; raise UserError if it is not trained."""
    if not (run / MODEL_FILE).is_file():
        raise UserError(f"{why} {run}, which holds no {MODEL_FILE}: train it first")
    return run / MODEL_FILE


def warm_start_weights(source: Path, tokenizer: Tokenizer, encoder: EncoderConfig) -> dict[str, torch.Tensor]:
    """Read the weights of a model file; raise UserError if they are for other tokens or other layers."""
    saved = checkpoint.read_model(source)
    if saved.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{source} writes other tokens than those of stage 3; train it again first")
    check_same_layers(encoder, saved.config.encoder, str(source))
    return saved.weights


def read_tokens(path: Path, config: TokenConfig) -> Tokenizer:
    """Read a tokenizer; raise UserError if it is not as configured."""
    tokenizer = Tokenizer.load(path)
    if tokenizer.kind != config.kind or (config.kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{path} holds {tokenizer.vocab_size} tokens of kind {tokenizer.kind}, but tokens.kind = {config.kind} and "
            f"tokens.vocab_size = {config.vocab_size} are configured; run stage 3 again, with --overwrite"
        )
    return tokenizer


def prepare_folder(folder: Path, identity: dict[str, Any]) -> bool:
    """Make a folder ready for a run of this identity; return False if that run is finished already."""
    finished = folder / MODEL_FILE
    if finished.is_file():
        held = checkpoint.read_model(finished).info.get("identity")
    else:
        state = CheckpointFolder(folder / "checkpoints").load_state()
        if state is None:
            folder.mkdir(parents=True, exist_ok=True)
            return True
        held = state["identity"]
    if not is_same_training(held, identity):
        print(f"{folder}: configuration, tokens or warm start changed; the old run is kept in {set_aside(folder)}")
        folder.mkdir()
        return True
    return not finished.is_file()


def warn_of_warmup(warmup_steps: int, max_steps: int) -> None:
    """Warn if the training ends before the learning rate has risen."""
    if warmup_steps >= max_steps:
        given = f"train.optimizer.warmup_steps = {warmup_steps}, but train.max_steps = {max_steps}"
        log.warning("the learning rate never peaks: %s", given)


class AboveTheBar(logging.Handler):
    """Log lines on stderr that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(path: Path) -> None:
    """Log to the terminal and to a file, each line with the time of day."""
    log.setLevel(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    for handler in (AboveTheBar(), logging.FileHandler(path)):
        handler.setFormatter(formatter)
        log.addHandler(handler)
