"""The trainer: one for every model."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from residualformer.config.schema import Config, VariationConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.augmentation import Variation
from residualformer.data.batches import EvalBatches, TrainBatches
from residualformer.data.collate import Batch
from residualformer.data.spec_augment import spec_augment
from residualformer.data.tokenizer import Tokenizer
from residualformer.decode.greedy import greedy_search
from residualformer.errors import UserError
from residualformer.kernels.dropout import pool_states, restore_pools
from residualformer.loss.common import NotFiniteError
from residualformer.model import checkpoint
from residualformer.model.cost import parameter_table
from residualformer.model.identity import is_same_training
from residualformer.nn.transducer import build_model
from residualformer.provenance import provenance
from residualformer.train.metrics import SHARES, Clock, Losses, MetricsWriter, Tracker, greedy_scores, progress_line
from residualformer.train.optimizer import Optimizer
from residualformer.train.phases import phases_of
from residualformer.train.teacher import Teacher
from residualformer.train.warm_start import WarmStartReport, warm_start

log = logging.getLogger("residualformer")
MAX_BAD_UPDATES = 20  # in a row
SKETCH_SECONDS = 600.0  # of dev speech, about, decoded at each validation


class Interrupted(Exception):
    """The process was asked to stop; the state is saved."""


class Trainer:
    """Trains the model of `config` in a run folder, and goes on where an earlier call stopped.

    Args:
        config: the experiment.
        tokenizer: its tokens.
        cuts: manifests of the training and the dev set, with features.
        cmvn: mean and standard deviation of the training features, (F,) each.
        folder: the run folder; `checkpoints/` is kept there.
        identity: what must not change between two calls (configuration, tokens, warm start, ...).
        teacher, slow_share: what some trainings of branches need, see `phases.Branches`.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        cuts: dict[str, Path],
        cmvn: tuple[torch.Tensor, torch.Tensor],
        folder: Path,
        identity: dict[str, Any],
        teacher: Teacher | None = None,
        slow_share: float | None = None,
    ) -> None:
        self.config, self.tokenizer, self.folder, self.identity = config, tokenizer, folder, identity
        self.checkpoints = folder / "checkpoints"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.train.seed)
        restore_pools([])
        self.model = build_model(config, tokenizer.vocab_size).to(self.device)
        self.model.encoder.mean.copy_(cmvn[0])
        self.model.encoder.std.copy_(cmvn[1])
        self.optimizer = Optimizer(self.model, config.train)
        self.phases = phases_of(config, self.model, teacher and teacher.to(self.device), slow_share)
        target = config.tokens.target
        self.batches = TrainBatches(cuts["train"], config.data, tokenizer, target, config.train.seed)
        self.dev = EvalBatches(cuts["dev"], config.data.max_batch_s, tokenizer, target)
        self.dev_seconds = sum(utterance.duration for batch in self.dev.plan for utterance in batch)
        variation = config.data.variation
        self.variation = Variation(variation, config.features) if variation != VariationConfig() else None
        self.step = self.epoch = self.batch_in_epoch = 0
        self.clock = Clock()
        self._stop = False

    def warm_start(self, weights: dict[str, torch.Tensor], source: str) -> WarmStartReport:
        """Take over `weights` (see `warm_start`); the features' mean and variance stay those of the training set."""
        own = {name: getattr(self.model.encoder, name).clone() for name in ("mean", "std")}
        report = warm_start(self.model, weights, source)
        for name, value in own.items():
            getattr(self.model.encoder, name).copy_(value)
        return report

    def resume(self) -> bool:
        """Load `checkpoints/resume.pt`, if there is one of the same identity; says whether it did."""
        path = self.checkpoints / "resume.pt"
        if not path.is_file():
            return False
        state = checkpoint.load(path, "identity", "weights", "optimizer", "step", "epoch", "phases", "clock", "random")
        if not is_same_training(state["identity"], self.identity):
            raise UserError(f"{path} belongs to another configuration; move {self.folder} away to train anew")
        checkpoint.load_weights(self.model, state["weights"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch, self.batch_in_epoch = state["step"], state["epoch"], state["batch_in_epoch"]
        self.clock = Clock(**state["clock"])
        self.phases.load_state_dict(state["phases"])
        random = state["random"]
        torch.set_rng_state(random["cpu"])
        torch.cuda.set_rng_state_all(random["cuda"][: torch.cuda.device_count()])
        restore_pools(random["dropout"])
        return True

    def run(self) -> dict[str, Any]:
        """Train to `max_steps`, average, write `model.pt`; gives its training record.

        Raises:
            Interrupted: on SIGTERM or SIGINT, after saving.
        """
        handlers = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        self._forget_unreached()
        self.writer = MetricsWriter(self.folder, self.step)
        try:
            self._train()
        finally:
            self.writer.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._finish()

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self._stop = True

    def _train(self) -> None:
        train, tracker = self.config.train, Tracker()
        bar = tqdm(total=train.max_steps, initial=self.step, unit="step", disable=None, dynamic_ncols=True)
        first, bad = self.step, 0
        self.clock.start()
        waited = time.perf_counter()
        stream = self._batches()
        while self.step < train.max_steps:
            batch = next(stream).to(self.device)
            wait = time.perf_counter() - waited
            losses, norm = self._update(batch)
            self.step += 1
            bar.update()
            if math.isfinite(norm):
                bad = 0
                tracker.add(losses, int(batch.feature_lens.sum()), int(batch.token_lens.sum()), norm, wait)
            else:
                bad = self._note_bad_update(batch, bad)
            if self.step % train.log_every_steps == 0:
                eta = self.clock.running_s / (self.step - first) * (train.max_steps - self.step)
                self._report("train", tracker.take(), eta)
            if self.step % train.valid_every_steps == 0 or self.step == train.max_steps:
                values = self._validate()
                self.phases.validated(values)
                self._report("valid", values)
            if self.step % train.save_every_steps == 0 or self.step == train.max_steps or self._stop:
                self._save()
            if self._stop:
                bar.close()
                raise Interrupted
            waited = time.perf_counter()
        bar.close()

    def _batches(self) -> Iterator[Batch]:
        """Training batches from where the run stands, epoch after epoch."""
        while True:
            found = False
            for batch in self.batches.epoch(self.epoch, skip=self.batch_in_epoch):
                self.batch_in_epoch += 1
                found = True
                yield batch
            if not found and self.batch_in_epoch == 0:
                raise UserError("the training set has no usable utterance; see the report of stage 2")
            self.epoch, self.batch_in_epoch = self.epoch + 1, 0

    def _update(self, batch: Batch) -> tuple[Losses, float]:
        """One update; its losses and the gradient's norm (not finite: nothing was updated)."""
        self.model.train()
        features = self._augmented(batch)
        learners = self.phases.begin(self.step)
        try:
            losses = self.phases.losses(batch, features)
        except NotFiniteError as error:
            self._warn(error, batch)
            self.optimizer.step()  # without gradients: no more than the schedule goes on
            return Losses({}), math.nan
        # Per feature frame, so that neither gradient nor clipping depends on how much a batch holds.
        (losses.sums["loss"] / batch.feature_lens.sum()).backward(inputs=learners)
        return losses, self.optimizer.step()

    def _augmented(self, batch: Batch) -> torch.Tensor:
        """The features (N, T, F) to train on: chance depends on the update alone, whatever came before."""
        seed, features = self.config.train.seed * 1_000_003 + self.step, batch.features
        if self.variation:
            generator = torch.Generator().manual_seed(seed)
            features = self.variation(features, batch.feature_lens, generator)
        specaugment = self.config.data.specaugment
        if self.step >= specaugment.start_step:
            generator = torch.Generator().manual_seed(seed)
            features = spec_augment(features, batch.feature_lens, specaugment, self.model.encoder.mean, generator)
        return features

    def _warn(self, error: NotFiniteError, batch: Batch) -> None:
        log.warning("after step %d: %s; %s", self.step, error, ", ".join(batch.ids[row] for row in error.rows[:8]))

    def _note_bad_update(self, batch: Batch, bad: int) -> int:
        log.warning("step %d: the gradient is not finite; update skipped; utterances %s", self.step, batch.ids[:8])
        if bad + 1 >= MAX_BAD_UPDATES:
            raise UserError(f"{bad + 1} updates in a row had no finite gradient; lower train.optimizer.lr")
        return bad + 1

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Losses over the dev set, what branches it goes through; scores of greedy search over some minutes of it."""
        self.model.eval()
        tracker, seen, decoded = Tracker(), 0.0, 0.0
        share = min(1.0, SKETCH_SECONDS / self.dev_seconds)  # spread evenly: the set begins with its shortest
        references, hypotheses = [], []
        for batch in self.dev:
            batch = batch.to(self.device)
            try:
                losses = self.phases.losses(batch, batch.features)
                tracker.add(losses, int(batch.feature_lens.sum()), int(batch.token_lens.sum()))
            except NotFiniteError as error:
                self._warn(error, batch)
            seconds = float(batch.feature_lens.sum()) * FRAME_SHIFT_S
            seen += seconds
            if decoded + min(seconds, SKETCH_SECONDS) / 2 <= share * seen:
                decoded += seconds
                encoded, lengths = self.model.encoder(batch.features, batch.feature_lens)
                found = greedy_search(self.model, encoded, lengths, token_reward=self.config.decode.token_reward)
                references += batch.texts
                hypotheses += [self.tokenizer.decode(hypothesis.tokens) for hypothesis in found]
        values = tracker.take()
        kept = {"loss_per_frame", *SHARES}
        keep = {n: v for n, v in values.items() if n.endswith("per_token") or n in kept}
        return keep | greedy_scores(references, hypotheses, self.config.tokens.target)

    def _report(self, part: str, values: dict[str, float], eta_s: float = 0.0) -> None:
        lr = self.optimizer.lr
        self.writer.write(self.step, part, values | ({"lr": lr, **self.clock.read()} if part == "train" else {}))
        if part == "train":
            log.info(progress_line(self.step, self.config.train.max_steps, values, lr, eta_s))
        else:
            log.info("step %d | valid | %s", self.step, _listed(values))

    def _save(self) -> None:
        """Weights for the average (the newest `average_last` are kept), and the full state to go on from."""
        weights = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        if self.step % self.config.train.save_every_steps == 0 or self.step == self.config.train.max_steps:
            checkpoint.save(weights, self.checkpoints / f"step-{self.step}.pt")
        state = {"identity": self.identity, "weights": weights, "optimizer": self.optimizer.state_dict()}
        state |= {"phases": self.phases.state_dict()}
        state |= {"step": self.step, "epoch": self.epoch, "batch_in_epoch": self.batch_in_epoch}
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        random = {"cpu": torch.get_rng_state(), "cuda": cuda, "dropout": pool_states()}
        state |= {"clock": self.clock.read(), "random": random}
        checkpoint.save(state, self.checkpoints / "resume.pt")
        for old in self._saved()[: -self.config.train.average_last]:
            old.unlink()

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-[0-9]*.pt"), key=_step_of)

    def _forget_unreached(self) -> None:
        """Remove what a killed or damaged run left beyond the state from which this one goes on."""
        for path in [path for path in self._saved() if _step_of(path) > self.step]:
            path.unlink()
        for half_written in self.checkpoints.glob(".*.pt"):
            half_written.unlink()

    def _finish(self) -> dict[str, Any]:
        """Average the last checkpoints, measure the average on the dev set, write `model.pt`."""
        paths = self._saved()[-self.config.train.average_last :]
        expected = min(self.config.train.average_last, math.ceil(self.step / self.config.train.save_every_steps))
        if len(paths) < expected:
            log.warning("only %d of the last %d checkpoints are there to be averaged", len(paths), expected)
        checkpoint.load_weights(self.model, checkpoint.average(paths), "the average")
        self.phases.settle(self.dev)
        weights = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        valid = self._validate()
        log.info("average of %d checkpoints | valid | %s", len(paths), _listed(valid))
        info = provenance() | {"data": self.batches.describe(), "seed": self.config.train.seed}
        info |= {"steps": self.step, "epochs": self.epoch}
        info |= self.clock.read() | {"averaged": [path.name for path in paths], "valid": valid}
        info |= {"parameters": parameter_table(self.model), "identity": self.identity}
        info |= {"fingerprint": checkpoint.fingerprint(weights)}
        checkpoint.save_model(self.folder / checkpoint.MODEL_FILE, weights, self.config, self.tokenizer, info)
        return info


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _listed(values: dict[str, float]) -> str:
    return " | ".join(f"{name} {value:.3f}" for name, value in values.items())
