"""The training loop, the same for every model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from residualformer.config.schema import Config, VariationConfig
from residualformer.constants import MODEL_FILE
from residualformer.data.augmentation import Augmentation
from residualformer.data.batches import EvalBatches, Position, TrainBatches
from residualformer.data.collate import Batch
from residualformer.data.spec_augment import spec_augment
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.files import remove_leftovers
from residualformer.loss.arcs import NotFiniteError
from residualformer.model import checkpoint
from residualformer.model.cost import parameter_table
from residualformer.model.identity import Change, training_changes
from residualformer.nn.transducer import build_model
from residualformer.provenance import provenance
from residualformer.train.left_out import LeftOut
from residualformer.train.losses import BatchLosses, LossTracker
from residualformer.train.nodes import check_ranks
from residualformer.train.optimizer import Optimizer
from residualformer.train.parameters import freeze, kept_statistics, learning
from residualformer.train.phases import build_phases
from residualformer.train.progress import Clock, MetricsWriter, progress_line, validation_line
from residualformer.train.randomness import seed_batch
from residualformer.train.ranks import Ranks
from residualformer.train.selection import Candidate, Measured, Validations, candidates, choose
from residualformer.train.signals import Interrupted, signals_handled_by
from residualformer.train.state import CheckpointFolder, TrainingState
from residualformer.train.validation import validate
from residualformer.train.warm_start import WarmStartReport, shared_tokens, warm_start

log = logging.getLogger("residualformer")


class Trainer:
    """A training in a run folder, which continues where an earlier process stopped.

    Args:
        cuts: manifests with features, of `train` and `dev`.
        cmvn: mean and standard deviation of the training features, (F,) each.
        folder: the run folder. It must belong to this training alone.
        identity: what must not change while the training goes on (configuration, tokens, warm start, ...).
        teacher, slow_share: needed by some trainings with branches, see `BranchPhases`.
        ranks: the processes of the training, this one alone by default. What comes out does not depend on their number.
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
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.tokenizer, self.folder, self.identity = config, tokenizer, folder, identity
        self.ranks = ranks or Ranks()
        check_ranks(self.ranks.world, config.train.batches_per_update)
        self.device = self.ranks.device
        self.checkpoints = CheckpointFolder(folder / "checkpoints", keep=config.train.average_last)
        self.clock = Clock()
        self.step, self.position = 0, Position()
        self.changes: list[dict[str, Any]] = []  # made to the configuration on the way
        self.validations = Validations()
        self.left_out = LeftOut(config.data.max_bad_share, self.ranks)
        self.stop_requested = False  # of this process
        self.stopping = False  # of any, as of the last update

        target = config.tokens.target
        self.batches = TrainBatches(cuts["train"], config.data, tokenizer, target, config.train.seed, config.features)
        self.dev = EvalBatches(cuts["dev"], config.data.max_batch_s, tokenizer, target)
        variation = config.data.variation
        self.augment = Augmentation(variation, config.features) if variation != VariationConfig() else None

        torch.manual_seed(config.train.seed)
        self.model = build_model(config, tokenizer.vocab_size).to(self.device)
        self.model.encoder.mean.copy_(cmvn[0])
        self.model.encoder.std.copy_(cmvn[1])
        freeze(self.model, config.train)
        self.optimizer = Optimizer(self.model, config.train, self.ranks)
        self.phases = build_phases(config, self.model, teacher and teacher.to(self.device), slow_share)

    def warm_start(
        self, weights: dict[str, Tensor], source: str, pieces: Sequence[str] | None = None
    ) -> WarmStartReport:
        """Initialize the model from `weights`, whose tokens are `pieces`, by default the same; see `warm_start`.

        The statistics of the features stay those of the training set, unless they are frozen.
        """
        with kept_statistics(self.model, self.config.train):
            return warm_start(self.model, weights, source, shared_tokens(pieces, self.tokenizer.pieces))

    def resume(self, intended: Sequence[Change] = (), state: TrainingState | None = None) -> bool:
        """Restore the state that an earlier process saved. Return False if there is none.

        Args:
            intended: what may differ from the training of the state. It is noted, and the state saved with it at once.
            state: the newest sound state, if it has been read.

        Raises UserError if the states are damaged, or belong to a training that differs otherwise.
        """
        state = self.ranks.of_first(state or self.checkpoints.load_state() if self.ranks.is_first else None)
        if state is None:
            return False
        path, changes = self.checkpoints.path, training_changes(state["identity"], self.identity)
        if changes and changes != list(intended):
            raise UserError(f"{path} belongs to another configuration; move {self.folder} away to train anew")
        if state["step"] > self.config.train.max_steps:
            raise UserError(f"train.max_steps is {self.config.train.max_steps}, but {path} is at step {state['step']}")
        checkpoint.load_weights(self.model, state["weights"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.phases.load_state_dict(state["phases"])
        self.step, self.position = state["step"], Position(state["epoch"], state["update_in_epoch"])
        self.clock = Clock(**state["clock"])
        self.changes, self.validations = state["changes"], Validations(state["validations"])
        self.left_out.counts = state["left_out"]
        if changes:
            self._note(changes)
        return True

    def _note(self, changes: Sequence[Change]) -> None:
        """Note changes of the configuration in log and state. Where they change the updates, a new epoch begins."""
        for change in changes:
            log.info("from step %d on: %s", self.step, change)
            self.changes.append({"step": self.step, "name": change.name, "from": change.old, "to": change.new})
        if self.position.update and any(change.moves_updates for change in changes):
            self.position = Position(self.position.epoch + 1)
        self._save()

    def run(self) -> dict[str, Any]:
        """Train to the end, choose the weights by the dev set, write the model and return its `info`.

        Raises Interrupted on SIGTERM or SIGINT, after saving the state.
        """
        with signals_handled_by(self.request_stop):
            if self.ranks.is_first:
                remove_leftovers(self.folder)
                remove_leftovers(self.checkpoints.path)
                self.checkpoints.remove_after(self.step)
            with MetricsWriter(self.folder, self.step) if self.ranks.is_first else nullcontext() as writer:
                self._train(writer)
        return self._finish()

    def request_stop(self) -> None:
        """Let `run` save the state after the current update and raise `Interrupted`."""
        self.stop_requested = True

    @property
    def ended(self) -> bool:
        """Whether all updates are made, or the dev set has had enough of them."""
        train = self.config.train
        return self.step >= train.max_steps or self.validations.are_enough(train.patience)

    def _train(self, writer: MetricsWriter | None) -> None:
        train, tracker, first = self.config.train, LossTracker(), self.step
        self.clock.start()
        updates = self.batches.updates(self.position, train.batches_per_update, self.ranks.rank, self.ranks.world)
        silent = None if self.ranks.is_first else True  # None: unless nobody watches
        with tqdm(total=train.max_steps, initial=first, unit="step", disable=silent, dynamic_ncols=True) as bar:
            while not self.ended:
                asked = time.perf_counter()
                update = next(updates)
                wait_s = time.perf_counter() - asked

                losses, norm = self.update(update.batches)
                self.step, self.position = self.step + 1, update.end
                self.left_out.add(update.bad, update.asked, update.unread)
                bar.update()
                if math.isfinite(norm):
                    self.left_out.bad_updates = 0
                    for batch, of_batch in losses:
                        tracker.add(of_batch, batch)
                    tracker.add_update(norm, wait_s)
                else:
                    self.left_out.note_bad_update(update.batches, self.step)

                last = self.step == train.max_steps
                if self.step % train.log_every_steps == 0:
                    self.left_out.tell()
                    eta_s = self.clock.running_s / (self.step - first) * (train.max_steps - self.step)
                    self._log_progress(writer, tracker.take(self.ranks), eta_s)
                if self.step % train.valid_every_steps == 0 or last:
                    self._validate(writer)
                if self.step % train.save_every_steps == 0 or self.ended or self.stopping:
                    self._save()
                if self.stopping:
                    self.ranks.wait()  # until all is saved
                    raise Interrupted

    def update(self, batches: Sequence[tuple[int, Batch]]) -> tuple[list[tuple[Batch, BatchLosses]], float]:
        """Make one update of `batches`, each with its number in the update, and of those of the other ranks.

        The gradient is that of the summed loss per feature frame, so that neither it nor clipping depends on how much
        a batch holds. An utterance without a finite loss is left out.

        Return the losses of this rank's batches, and the norm of the gradient; if it is not finite, no weight changes.
        """
        self.model.train()
        parameters = learning(self.phases.begin_update(self.step))
        losses: list[tuple[Batch, BatchLosses]] = []
        for number, batch in batches:
            computed = self._losses(batch, seed_batch(self.config.train.seed, self.step, number))
            if computed:
                computed[1].sums["loss"].backward(inputs=parameters)
                losses.append(computed)

        observed = self.phases.observed([of_batch for _, of_batch in losses])
        own = [sum(int(batch.feature_lens.sum()) for batch, _ in losses), self.stop_requested, *observed]
        frames, stop, *observed = self.ranks.sum_gradients(self.optimizer.parameters, own)
        self.stopping = stop > 0
        norm = self.optimizer.step(frames)
        self.phases.end_update(observed)
        return losses, norm

    def _losses(self, batch: Batch, seed: int) -> tuple[Batch, BatchLosses] | None:
        """Return a batch without the utterances that have no loss, and its losses; None if none has one."""
        kept: Batch | None = batch
        while kept:
            on_device = kept.to(self.device)
            try:
                augmented = self._augmented(on_device.features, kept.feature_lens, seed)
                return kept, self.phases.losses(on_device, augmented)
            except NotFiniteError as error:
                self.left_out.add({kept.ids[row]: "its loss is not finite" for row in error.rows})
                kept = kept.without(error.rows)
        return None

    def _augmented(self, features: Tensor, lengths: Tensor, seed: int) -> Tensor:
        """Return features (N, T, F) with augmentation; `seed` determines all random choices.

        `lengths` (N,) are on the CPU, from which numbers for a GPU are copied without waiting.
        """
        if self.augment:
            generator = torch.Generator().manual_seed(seed)
            features = self.augment(features, lengths, generator)
        specaugment = self.config.data.specaugment
        if self.step >= specaugment.start_step:
            generator = torch.Generator().manual_seed(seed)
            features = spec_augment(features, lengths, specaugment, self.model.encoder.mean, generator)
        return features

    def validate(self) -> dict[str, float]:
        """Measure the model on the dev set; see `validate`."""
        return validate(self.phases, self.dev, self.tokenizer, self.step, self.ranks)

    def _validate(self, writer: MetricsWriter | None) -> None:
        """Validate, note the result, and save the weights if they are among the best that are to be kept."""
        values, train = self.validate(), self.config.train
        self.phases.after_validation(values)
        self.validations.add(self.step, values)
        if writer:
            writer.write(self.step, "valid", values)
            if self.step in self.validations.best(train.average_best):
                self.checkpoints.save_weights(self._weights(), self.step, best=True)
        log.info("step %d | valid | %s", self.step, validation_line(values))

    def _log_progress(self, writer: MetricsWriter | None, values: dict[str, float], eta_s: float) -> None:
        lr, spent = self.optimizer.lr, self.clock.read(self.ranks)
        if writer:
            writer.write(self.step, "train", {**values, "lr": lr, **spent})
        log.info(progress_line(self.step, self.config.train.max_steps, values, lr, eta_s))

    def _save(self) -> None:
        """Save the state to continue from and, every `save_every_steps`, weights to average."""
        self.left_out.tell()
        spent, optimizer = self.clock.read(self.ranks), self.optimizer.state_dict()
        if not self.ranks.is_first:
            return
        train, weights = self.config.train, self._weights()
        if self.step % train.save_every_steps == 0 or self.ended:
            self.checkpoints.save_weights(weights, self.step)
        self.checkpoints.save_state(
            TrainingState(
                identity=self.identity,
                weights=weights,
                optimizer=optimizer,
                phases=self.phases.state_dict(),
                step=self.step,
                epoch=self.position.epoch,
                update_in_epoch=self.position.update,
                clock=spent,
                changes=self.changes,
                validations=self.validations.measured,
                left_out=self.left_out.counts,
            ),
            self.validations.best(train.average_best),
        )

    def _finish(self) -> dict[str, Any]:
        """Measure the candidates on the dev set, write the best as the model and return its `info`."""
        train = self.config.train
        offered = self.ranks.of_first(candidates(self.checkpoints, self.validations, self.config, self.step))
        chosen, records = choose(offered, self._measure)
        checkpoint.load_weights(self.model, chosen.weights, chosen.candidate.name)
        info = {
            **provenance(),
            "data": self.batches.describe(),
            "seed": train.seed,
            "steps": self.step,
            "stopped_early": self.step < train.max_steps,
            "epochs": self.position.epoch,
            **self.clock.read(self.ranks),
            "averaged": [path.name for path in chosen.candidate.files],
            "candidates": records,
            "valid": chosen.valid,
            "left_out": self.left_out.describe(),
            "parameters": parameter_table(self.model),
            "identity": self.identity,
            "changes": self.changes,
            "fingerprint": checkpoint.fingerprint(chosen.weights),
        }
        if self.ranks.is_first:
            checkpoint.save_model(self.folder / MODEL_FILE, chosen.weights, self.config, self.tokenizer, info)
        return info

    def _measure(self, candidate: Candidate) -> Measured:
        """Average a candidate's checkpoints, and measure the average on the dev set."""
        weights_of = map(self.checkpoints.load_weights, candidate.files)
        average = self.ranks.of_first(checkpoint.average(weights_of) if self.ranks.is_first else {})
        checkpoint.load_weights(self.model, average, candidate.name)
        self.phases.finalize((batch for _, batch in self.dev.part(self.ranks.rank, self.ranks.world)), self.ranks)
        weights = {name: tensor.clone() for name, tensor in self._weights().items()}
        measured = Measured(candidate, weights, self.validate())
        log.info("%s | valid | %s", candidate.name, validation_line(measured.valid))
        return measured

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
