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
from residualformer.files import numbered, set_aside, write_text
from residualformer.model import checkpoint
from residualformer.model.identity import Change, IfChanged, refuse_changes, training_changes, training_identity
from residualformer.train.loop import Trainer
from residualformer.train.ranks import Ranks
from residualformer.train.state import CheckpointFolder
from residualformer.train.teacher import Teacher
from residualformer.train.warm_start import check_same_layers

log = logging.getLogger("residualformer")


def make_trainer(
    config: Config,
    data: Path,
    folder: Path,
    warm_start: Path | None,
    resume_script: str,
    ranks: Ranks,
    if_changed: IfChanged = "refuse",
) -> Trainer | None:
    """Return the trainer of `config` in the run folder `folder`, at its start or where an earlier call stopped.

    All that the training needs is read and checked before the run folder is touched. If it holds the finished model of
    this training, the result is None.

    Args:
        data: folder with fbank/ and lang/ (stages 2 and 3).
        warm_start: run folder to start from, instead of the sibling of `folder` that the configuration names.
        resume_script: content of resume.sh, which goes on with this run.
        ranks: the processes of the training, which all call this.
        if_changed: what becomes of a run of another configuration in `folder`.

    Raises:
        UserError: the features or tokens are not those of `config`, a model that it needs is missing or unfit, or
            `folder` holds a run that cannot become this one, or is not to.
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
    changes = ranks.of_first(prepare_folder(folder, identity, if_changed) if ranks.is_first else None)
    if changes is None:
        return None
    if ranks.is_first:
        dump_config(config, folder / "config.yaml")
        write_text(folder / "resume.sh", resume_script)
    log_to(folder / "train.log" if ranks.is_first else None)
    cuts, cmvn = {"train": train_source(fbank), "dev": cuts_file(fbank, "dev")}, read_cmvn(fbank)
    taught_by = Teacher(teacher, config) if teacher else None
    trainer = Trainer(config, tokenizer, cuts, cmvn, folder, identity, taught_by, slow_share, ranks)
    if trainer.resume(changes):
        log.info("going on from step %d", trainer.step)
    elif source:
        report, listed = trainer.warm_start(weights, str(source)), folder / "warm_start.txt"
        if ranks.is_first:
            write_text(listed, "\n".join(report.lines()) + "\n")
        log.info("warm start from %s: %s; %s lists them", source, report.counts(), listed)
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


def prepare_folder(folder: Path, identity: dict[str, Any], if_changed: IfChanged = "refuse") -> list[Change] | None:
    """Make a folder ready for a run of this identity.

    Return what changes in the run that is there and is gone on with; None if that run is finished already.
    """
    finished = folder / MODEL_FILE
    held = held_identity(folder)
    if held is None:
        folder.mkdir(parents=True, exist_ok=True)
        return []
    changes = training_changes(held, identity)
    refuse_changes(f"the training in {folder}", changes, if_changed)
    if not changes:
        return None if finished.is_file() else []
    if if_changed == "aside":
        print(f"{folder}: configuration, tokens or warm start changed; the old run is kept in {set_aside(folder)}")
        folder.mkdir()
        return []
    if not CheckpointFolder(folder / "checkpoints").has_states:
        raise UserError(f"{folder} holds no state of its training to go on from; train in another folder")
    if finished.is_file():
        print(f"the model as it was is kept in {finished.rename(numbered(folder / f'former.{finished.name}'))}")
    return changes


def held_identity(folder: Path) -> dict[str, Any] | None:
    """Return the identity of the training in a folder, of its model or its state; None if there is neither."""
    finished, checkpoints = folder / MODEL_FILE, CheckpointFolder(folder / "checkpoints")
    if finished.is_file():
        try:
            return dict(checkpoint.read_model(finished).info.get("identity", {}))
        except UserError as error:
            if not checkpoints.has_states:
                raise
            log.warning("%s; it is made anew of the checkpoints", error)
            finished.unlink()
    state = checkpoints.load_state()
    return state["identity"] if state else None


def warn_of_warmup(warmup_steps: int, max_steps: int) -> None:
    """Warn if the training ends before the learning rate has risen."""
    if warmup_steps >= max_steps:
        given = f"train.optimizer.warmup_steps = {warmup_steps}, but train.max_steps = {max_steps}"
        log.warning("the learning rate never peaks: %s", given)


class AboveTheBar(logging.Handler):
    """Log lines on stderr that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to(path: Path | None) -> None:
    """Log to the terminal and to a file, each line with the time of day; with None, nowhere."""
    if path is None:
        log.propagate = False
        log.addHandler(logging.NullHandler())
        return
    log.setLevel(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    for handler in (AboveTheBar(), logging.FileHandler(path)):
        handler.setFormatter(formatter)
        log.addHandler(handler)
