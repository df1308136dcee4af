"""The set-up of a training: the models it starts from and learns from, its run folder, its log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from residualformer.config.loading import dump_config
from residualformer.config.schema import Config, EncoderConfig, TokenConfig, TrainConfig
from residualformer.constants import MODEL_FILE
from residualformer.data.features import DEFINITION, read_cmvn, read_feature_config
from residualformer.data.splits import cuts_file, train_source
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.files import OLD, numbered, set_aside, write_text
from residualformer.model import checkpoint
from residualformer.model.cost import compressed_to, flops_per_frame
from residualformer.model.identity import Change, IfChanged, refuse_changes, training_changes, training_identity
from residualformer.train.distill import Distiller
from residualformer.train.loop import Trainer
from residualformer.train.parameters import check_patterns, is_frozen
from residualformer.train.ranks import Ranks
from residualformer.train.state import CheckpointFolder, TrainingState
from residualformer.train.warm_start import WarmStartReport, check_same_layers

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
    config = compressed_to_match(config, folder)
    source, fbank = None, data / "fbank"
    if warm_start is not None or config.warm_start is not None:
        source = needed_model(warm_start or sibling(folder, str(config.warm_start)), f"{folder} starts from")
    tokenizer = read_tokens(data / "lang" / "tokenizer.json", config.tokens)
    saved = model_to_start_from(source, config.encoder) if source else None
    check_patterns(config, tokenizer.vocab_size, starts_from_model=saved is not None)
    check_features(config, fbank)
    teacher, slow_share = teacher_of(config, folder), slow_share_to_match(config, folder)
    distiller = distiller_of(config, folder, tokenizer)
    identity = training_identity(
        config,
        tokens=tokenizer.fingerprint,
        warm_start=checkpoint.fingerprint(saved.weights if saved else {}),
        teacher=checkpoint.fingerprint(checkpoint.read_model(teacher).weights) if teacher else None,
        slow_share=slow_share,
        distill=distiller.fingerprint if distiller else None,
    )
    held = prepare_folder(folder, identity, if_changed) if ranks.is_first else None
    changes = ranks.of_first(held and held.changes)
    if changes is None:
        return None
    open_records(config, folder if ranks.is_first else None, resume_script)
    cuts, cmvn = {"train": train_source(fbank), "dev": cuts_file(fbank, "dev")}, read_cmvn(fbank)
    taught_by = Teacher(teacher, config) if teacher else None
    trainer = Trainer(config, tokenizer, cuts, cmvn, folder, identity, taught_by, slow_share, ranks)
    trainer.phases.distiller = distiller and distiller.to(trainer.device)
    if trainer.resume(changes, held and held.state):
        log.info("going on from step %d", trainer.step)
    elif saved:
        start_from(saved, trainer, folder, ranks)
    warn_of_warmup(config.train.optimizer.warmup_steps, config.train.max_steps)
    return trainer


def open_records(config: Config, folder: Path | None, resume_script: str) -> None:
    """Write the configuration and resume.sh to a run folder, and log there; with None, nowhere."""
    if folder is not None:
        dump_config(config, folder / "config.yaml")
        write_text(folder / "resume.sh", resume_script)
    log_to(folder and folder / "train.log")


def check_features(config: Config, fbank: Path) -> None:
    """Raise UserError if features of stage 2, or of the folders of `data.shar` that say what theirs are, are others."""
    places = [place for folder in map(Path, config.data.shar) for place in (folder, folder.parent)]
    for folder in [fbank, *(place for place in places if (place / DEFINITION).is_file())]:
        features = read_feature_config(folder)
        if features != config.features:
            raise UserError(f"{folder} holds {features}, but {config.features} is configured; run stage 2 again")


def sibling(folder: Path, name: str) -> Path:
    """Return the run folder `name` beside `folder`; of one that was moved into old/, beside the place where it was."""
    beside = folder.parent / name
    return folder.parent.parent / name if folder.parent.name == OLD and not beside.exists() else beside


def start_from(saved: checkpoint.SavedModel, trainer: Trainer, folder: Path, ranks: Ranks) -> None:
    """Initialize the model of a trainer from a saved one; log how, and list it in warm_start.txt."""
    report = trainer.warm_start(saved.weights, str(saved.file), saved.tokenizer.pieces)
    listed = folder / "warm_start.txt"
    if ranks.is_first:
        write_text(listed, "\n".join(report.lines()) + "\n")
    log.info("warm start from %s: %s; %s lists them", saved.file, report.counts(), listed)
    check_fresh(report, trainer.config.train)


def teacher_of(config: Config, folder: Path) -> Path | None:
    """Return the model file of the arbitrator's teacher, if the training begins with learning from one."""
    arbitrator = config.amnet.arbitrator
    if not arbitrator.pretrain_steps:
        return None
    return needed_model(sibling(folder, str(arbitrator.teacher)), f"the arbitrator of {folder} learns from")


def distiller_of(config: Config, folder: Path, tokenizer: Tokenizer) -> Distiller | None:
    """Return the teacher whose outputs are learned beside the labels, if there is one."""
    name = config.train.distill.teacher
    if name is None:
        return None
    return Distiller(needed_model(sibling(folder, name), f"{folder} learns the outputs of"), config, tokenizer)


def slow_share_to_match(config: Config, folder: Path) -> float | None:
    """Return the share of slow frames on the dev set to reach: as stated, or that of the experiment to match."""
    if config.amnet.cost.match is None:
        return config.amnet.cost.slow_share
    file = needed_model(sibling(folder, config.amnet.cost.match), f"{folder} matches the share of slow frames of")
    share = checkpoint.read_model(file).info.get("valid", {}).get("slow_share")
    if share is None:
        raise UserError(f"{file} has no slow frames whose share could be matched; name another in amnet.cost.match")
    return float(share)


def compressed_to_match(config: Config, folder: Path) -> Config:
    """Return `config` with its one branch compressed to what a frame of `amnet.match` costs on the dev set, on average.

    It is never compressed less than the slow branch of that experiment, which may cost less without an arbitrator.
    """
    if config.amnet.match is None:
        return config
    saved = checkpoint.read_model(needed_model(sibling(folder, config.amnet.match), f"{folder} matches the cost of"))
    share = saved.info.get("valid", {}).get("slow_share")
    if share is None or len(saved.config.amnet.compression) != 2:
        raise UserError(
            f"{saved.file} has no two branches whose mean cost could be matched; name another in amnet.match"
        )
    flops = flops_per_frame(saved.build().model)
    slow, fast = flops["branches"]
    return compressed_to(config, min(share * slow + (1 - share) * fast + flops["arbitrator"], slow))


def needed_model(run: Path, why: str) -> Path:
    """Return the model file of a run folder, or `run` if it is one; raise UserError if there is none."""
    if run.is_file():
        return run
    if (run / MODEL_FILE).is_file():
        return run / MODEL_FILE
    if any(run.glob("*.onnx")):
        raise UserError(
            f"{why} {run}, an exported folder, whose weights are laid out for the runtime: give the run folder, or the "
            f"{MODEL_FILE}, that it was exported from"
        )
    raise UserError(f"{why} {run}, which holds no {MODEL_FILE}: train it first")


def model_to_start_from(source: Path, encoder: EncoderConfig) -> checkpoint.SavedModel:
    """Read a model file; raise UserError if its weights are for other layers."""
    saved = checkpoint.read_model(source)
    check_same_layers(encoder, saved.config.encoder, str(source))
    return saved


def check_fresh(report: WarmStartReport, train: TrainConfig) -> None:
    """Raise UserError if weights that start at random are never to learn."""
    stuck = [name for name in (*report.fresh, *report.in_part) if is_frozen(name, train)]
    if stuck:
        more = f" (and {len(stuck) - 1} more)" if stuck[1:] else ""
        raise UserError(
            f"{stuck[0]}{more} starts at random, at least in part, but train.freeze keeps it as it is: take it out of "
            "train.freeze, or start from a model of the same tokens and loss"
        )


def read_tokens(path: Path, config: TokenConfig) -> Tokenizer:
    """Read a tokenizer; raise UserError if it is not as configured."""
    tokenizer = Tokenizer.load(path)
    if tokenizer.kind != config.kind or (config.kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{path} holds {tokenizer.vocab_size} tokens of kind {tokenizer.kind}, but tokens.kind = {config.kind} and "
            f"tokens.vocab_size = {config.vocab_size} are configured; run stage 3 again, with --overwrite"
        )
    return tokenizer


class Held(NamedTuple):
    """What a run folder holds of a training that is to go on."""

    changes: list[Change]  # between that training and this one
    state: TrainingState | None  # if it was read


def prepare_folder(folder: Path, identity: dict[str, Any], if_changed: IfChanged = "refuse") -> Held | None:
    """Make a folder ready for a run of this identity; return what it holds, None if that run is finished already."""
    finished = folder / MODEL_FILE
    held, state = held_training(folder)
    if held is None:
        folder.mkdir(parents=True, exist_ok=True)
        return Held([], None)
    changes = training_changes(held, identity)
    refuse_changes(f"the training in {folder}", changes, if_changed)
    if not changes:
        return None if finished.is_file() else Held([], state)
    if if_changed == "aside":
        print(f"{folder}: configuration, tokens or warm start changed; the old run is kept in {set_aside(folder)}")
        folder.mkdir()
        return Held([], None)
    if not CheckpointFolder(folder / "checkpoints").has_states:
        raise UserError(f"{folder} holds no state of its training to go on from; train in another folder")
    if finished.is_file():
        print(f"the model as it was is kept in {finished.rename(numbered(folder / f'former.{finished.name}'))}")
    return Held(changes, state)


def held_training(folder: Path) -> tuple[dict[str, Any] | None, TrainingState | None]:
    """Return the identity of the training in a folder, None if there is none; and its state, if it is not finished."""
    finished, checkpoints = folder / MODEL_FILE, CheckpointFolder(folder / "checkpoints")
    if finished.is_file():
        try:
            return dict(checkpoint.read_model(finished).info.get("identity", {})), None
        except UserError as error:
            if not checkpoints.has_states:
                raise
            log.warning("%s; it is made anew of the checkpoints", error)
            finished.unlink()
    state = checkpoints.load_state()
    return (state["identity"] if state else None), state


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
