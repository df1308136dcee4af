"""The training loop, the same for every model."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from residualformer.config.schema import Config, VariationConfig
from residualformer.constants import MODEL_FILE
from residualformer.data.augmentation import Augmentation
from residualformer.data.batches import EvalBatches, TrainBatches
from residualformer.data.collate import Batch
from residualformer.data.spec_augment import spec_augment
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.files import remove_leftovers
from residualformer.kernels.dropout import restore_pools
from residualformer.loss.arcs import NotFiniteError
from residualformer.model import checkpoint
from residualformer.model.cost import parameter_table
from residualformer.model.identity import is_same_training
from residualformer.nn.transducer import build_model
from residualformer.provenance import provenance
from residualformer.train.losses import BatchLosses, LossTracker, warn_not_finite
from residualformer.train.optimizer import Optimizer
from residualformer.train.phases import build_phases
from residualformer.train.progress import Clock, MetricsWriter, progress_line, validation_line
from residualformer.train.state import CheckpointFolder, TrainingState, random_state, set_random_state
from residualformer.train.teacher import Teacher
from residualformer.train.validation import validate
from residualformer.train.warm_start import WarmStartReport, warm_start

log = logging.getLogger("residualformer")

MAX_BAD_UPDATES = 20  # in a row


class Interrupted(Exception):
    """The process was asked to stop, and has saved the state of the training."""


class Trainer:
    """A training in a run folder, which continues where an earlier process stopped.

    Args:
        cuts: manifests with features, of `train` and `dev`.
        cmvn: mean and standard deviation of the training features, (F,) each.
        folder: the run folder. It must belong to this process alone.
        identity: what must not change while the training goes on (configuration, tokens, warm start, ...).
        teacher, slow_share: needed by some trainings with branches, see `BranchPhases`.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        cuts: dict[str, Path],
        cmvn: tuple[Tensor, Tensor],
        folder: Path,
        identity: dict[str, Any],
        teacher: Teacher | None = None,
        slow_share: float | None = None,
    ) -> None:
        self.config, self.tokenizer, self.folder, self.identity = config, tokenizer, folder, identity
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoints = CheckpointFolder(folder / "checkpoints", keep=config.train.average_last)
        self.clock = Clock()
        self.step = self.epoch = self.batch_in_epoch = 0
        self.bad_updates = 0  # in a row
        self.stop_requested = False

        target = config.tokens.target
        self.batches = TrainBatches(cuts["train"], config.data, tokenizer, target, config.train.seed)
        self.dev = EvalBatches(cuts["dev"], config.data.max_batch_s, tokenizer, target)
        self.dev_seconds = sum(utterance.duration for batch in self.dev.plan for utterance in batch)
        variation = config.data.variation
        self.augment = Augmentation(variation, config.features) if variation != VariationConfig() else None

        torch.manual_seed(config.train.seed)
        restore_pools([])
        self.model = build_model(config, tokenizer.vocab_size).to(self.device)
        self.model.encoder.mean.copy_(cmvn[0])
        self.model.encoder.std.copy_(cmvn[1])
        self.optimizer = Optimizer(self.model, config.train)
        self.phases = build_phases(config, self.model, teacher and teacher.to(self.device), slow_share)

    def warm_start(self, weights: dict[str, Tensor], source: str) -> WarmStartReport:
        """Initialize the model from `weights` (see `warm_start`), except for the statistics of the features."""
        encoder = self.model.encoder
        mean, std = encoder.mean.clone(), encoder.std.clone()
        report = warm_start(self.model, weights, source)
        encoder.mean.copy_(mean)
        encoder.std.copy_(std)
        return report

    def resume(self) -> bool:
        """Restore the state that an earlier process saved. Return False if there is none.

        Raises UserError if the state is damaged, or belongs to a training of another identity.
        """
        state = self.checkpoints.load_state()
        if state is None:
            return False
        path = self.checkpoints.path
        if not is_same_training(state["identity"], self.identity):
            raise UserError(f"{path} belongs to another configuration; move {self.folder} away to train anew")
        checkpoint.load_weights(self.model, state["weights"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.phases.load_state_dict(state["phases"])
        self.step, self.epoch, self.batch_in_epoch = state["step"], state["epoch"], state["batch_in_epoch"]
        self.clock = Clock(**state["clock"])
        set_random_state(state["random"])
        return True

    def run(self) -> dict[str, Any]:
        """Train up to `max_steps`, average the last weights, write the model and return its `info`.

        Raises Interrupted on SIGTERM or SIGINT, after saving the state.
        """
        with _signals_handled_by(self.request_stop):
            remove_leftovers(self.folder)
            remove_leftovers(self.checkpoints.path)
            self.checkpoints.remove_after(self.step)
            with MetricsWriter(self.folder, self.step) as writer:
                self._train(writer)
        return self._finish()

    def request_stop(self) -> None:
        """Let `run` save the state after the current update and raise `Interrupted`."""
        self.stop_requested = True

    def _train(self, writer: MetricsWriter) -> None:
        train = self.config.train
        tracker = LossTracker()
        first = self.step
        self.clock.start()
        batches = self._batches()
        with tqdm(total=train.max_steps, initial=first, unit="step", disable=None, dynamic_ncols=True) as bar:
            while self.step < train.max_steps:
                asked = time.perf_counter()
                batch = next(batches).to(self.device)
                wait_s = time.perf_counter() - asked

                losses, norm = self.update(batch)
                self.step += 1
                bar.update()
                if math.isfinite(norm):
                    self.bad_updates = 0
                    tracker.add(losses, batch, norm, wait_s)
                else:
                    self.note_bad_update(batch)

                last = self.step == train.max_steps
                if self.step % train.log_every_steps == 0:
                    eta_s = self.clock.running_s / (self.step - first) * (train.max_steps - self.step)
                    self._log_progress(writer, tracker.take(), eta_s)
                if self.step % train.valid_every_steps == 0 or last:
                    values = self.validate()
                    self.phases.after_validation(values)
                    writer.write(self.step, "valid", values)
                    log.info("step %d | valid | %s", self.step, validation_line(values))
                if self.step % train.save_every_steps == 0 or last or self.stop_requested:
                    self._save()
                if self.stop_requested:
                    raise Interrupted

    def _batches(self) -> Iterator[Batch]:
        """Yield training batches from where the training stands, epoch after epoch."""
        while True:
            empty = True
            for batch in self.batches.epoch(self.epoch, skip=self.batch_in_epoch):
                self.batch_in_epoch += 1
                empty = False
                yield batch
            if empty and self.batch_in_epoch == 0:
                raise UserError("the training set has no usable utterance; see the report of stage 2")
            self.epoch, self.batch_in_epoch = self.epoch + 1, 0

    def update(self, batch: Batch) -> tuple[BatchLosses, float]:
        """Make one update. Return the losses and the norm of the gradient; if that is not finite, no weight changes."""
        self.model.train()
        features = self._augmented(batch)
        parameters = self.phases.begin_update(self.step)
        try:
            losses = self.phases.losses(batch, features)
        except NotFiniteError as error:
            warn_not_finite(error, batch, self.step)
            self.optimizer.step()  # without gradients, this only advances the schedule
            return BatchLosses({}), math.nan
        # Per feature frame, so that neither gradient nor clipping depends on how much a batch holds.
        (losses.sums["loss"] / batch.feature_lens.sum()).backward(inputs=parameters)
        return losses, self.optimizer.step()

    def _augmented(self, batch: Batch) -> Tensor:
        """Return augmented features (N, T, F); the seed and the number of the update determine all random choices."""
        seed, features = self.config.train.seed * 1_000_003 + self.step, batch.features
        if self.augment:
            generator = torch.Generator().manual_seed(seed)
            features = self.augment(features, batch.feature_lens, generator)
        specaugment = self.config.data.specaugment
        if self.step >= specaugment.start_step:
            generator = torch.Generator().manual_seed(seed)
            features = spec_augment(features, batch.feature_lens, specaugment, self.model.encoder.mean, generator)
        return features

    def note_bad_update(self, batch: Batch) -> None:
        """Log that the last update had no finite gradient; raise UserError after `MAX_BAD_UPDATES` in a row."""
        self.bad_updates += 1
        log.warning("step %d: the gradient is not finite; update skipped; utterances %s", self.step, batch.ids[:8])
        if self.bad_updates >= MAX_BAD_UPDATES:
            raise UserError(f"{self.bad_updates} updates in a row had no finite gradient; lower train.optimizer.lr")

    def validate(self) -> dict[str, float]:
        """Measure the model on the dev set; see `validate`."""
        return validate(self.phases, self.dev, self.dev_seconds, self.tokenizer, self.step)

    def _log_progress(self, writer: MetricsWriter, values: dict[str, float], eta_s: float) -> None:
        lr = self.optimizer.lr
        writer.write(self.step, "train", {**values, "lr": lr, **self.clock.read()})
        log.info(progress_line(self.step, self.config.train.max_steps, values, lr, eta_s))

    def _save(self) -> None:
        """Save the state to continue from and, every `save_every_steps`, weights to average."""
        train, weights = self.config.train, self._weights()
        if self.step % train.save_every_steps == 0 or self.step == train.max_steps:
            self.checkpoints.save_weights(weights, self.step)
        self.checkpoints.save_state(
            TrainingState(
                identity=self.identity,
                weights=weights,
                optimizer=self.optimizer.state_dict(),
                phases=self.phases.state_dict(),
                step=self.step,
                epoch=self.epoch,
                batch_in_epoch=self.batch_in_epoch,
                clock=self.clock.read(),
                random=random_state(),
            )
        )

    def _finish(self) -> dict[str, Any]:
        """Average the last weights, measure the average on the dev set, write the model."""
        train = self.config.train
        paths = self.checkpoints.newest_weights()
        expected = min(train.average_last, math.ceil(self.step / train.save_every_steps))
        if len(paths) < expected:
            log.warning("only %d of the last %d checkpoints exist to be averaged", len(paths), expected)
        checkpoint.load_weights(self.model, checkpoint.average(paths), "the average")
        self.phases.finalize(self.dev)
        weights = self._weights()
        valid = self.validate()
        log.info("average of %d checkpoints | valid | %s", len(paths), validation_line(valid))
        info = {
            **provenance(),
            "data": self.batches.describe(),
            "seed": train.seed,
            "steps": self.step,
            "epochs": self.epoch,
            **self.clock.read(),
            "averaged": [path.name for path in paths],
            "valid": valid,
            "parameters": parameter_table(self.model),
            "identity": self.identity,
            "fingerprint": checkpoint.fingerprint(weights),
        }
        checkpoint.save_model(self.folder / MODEL_FILE, weights, self.config, self.tokenizer, info)
        return info

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}


@contextmanager
def _signals_handled_by(handle: Callable[[], None]) -> Iterator[None]:
    """Call `handle` on SIGTERM and SIGINT within the block; after it, the previous handlers are back."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in previous:
            signal.signal(number, lambda *_: handle())
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
