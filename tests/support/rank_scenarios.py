"""What ranks of a training do in tests/train/test_ranks.py: `together` runs scenarios in one, two or more processes."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.programs import ROOT, run_program
from support.toy_training import CONFIG, TOKENIZER, changed, make_trainer

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig, CostConfig
from residualformer.config.schema import Config, EncoderConfig, JoinerConfig, LossConfig
from residualformer.config.training import DistillConfig, OptimizerConfig
from residualformer.data.collate import Batch
from residualformer.hypothesis import Hypothesis
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.train import validation
from residualformer.train.distill import Distiller
from residualformer.train.loop import Trainer
from residualformer.train.losses import BatchLosses
from residualformer.train.phases import build_phases
from residualformer.train.ranks import Ranks
from residualformer.train.signals import Interrupted

Results = dict[str, Any]
G = 3  # batches of an update
STOP_AT = 3  # updates of the training that goes on with another number of ranks


def with_dropout(config: Config) -> Config:
    """Return `config` with all kinds of randomness, and updates of `G` batches of which each rank has one or more."""
    specaugment = dataclasses.replace(config.data.specaugment, start_step=0)
    config = changed("data", config, max_batch_s=4.0, specaugment=specaugment)
    config = changed("train", config, batches_per_update=G, valid_every_steps=3, log_every_steps=1)
    return changed("predictor", changed("encoder", config, dropout=0.2), dropout=0.2, token_dropout=0.2)


PRUNED = with_dropout(CONFIG)  # with CTC, by Muon
EXACT = changed("loss", PRUNED, kind="exact", ctc_scale=0.0)
BRANCHES = with_dropout(
    dataclasses.replace(
        CONFIG,
        encoder=EncoderConfig(kind="lstm", num_layers=1, dim=16),
        joiner=JoinerConfig("additive"),
        loss=LossConfig(kind="simple", ctc_scale=0.3),
        train=dataclasses.replace(CONFIG.train, optimizer=OptimizerConfig(kind="adamw", lr=3e-3, warmup_steps=2)),
        amnet=AmNetConfig(
            "sparse", [0.15, 0.8], prune_fraction=0.25, prune_every_steps=1,
            arbitrator=ArbitratorConfig(8, 2, teacher="toy", pretrain_steps=2), cost=CostConfig("avg", 5.0, 60e3),
        ),
    )
)  # fmt: skip


class LoudFrames:
    """A teacher for whom frames are uncertain whose first bin is above the mean."""

    def entropy(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return (features[:, ::3, 0] > 9).double() * 10


def trainer(cuts: dict[str, Path], folder: Path, config: Config, ranks: Ranks) -> Trainer:
    """Make a trainer in float64, so that sums in another order differ by far less than anything that is wrong."""
    made = make_trainer(cuts, folder, config, ranks=ranks)
    if config.amnet.compression:
        made.phases = build_phases(config, made.model, LoudFrames(), 0.3)
        made.phases.arbitrator.out.weight.data.mul_(100)  # so that it chooses either branch now and then
    made.model.double()
    augmented = made._augmented
    made._augmented = lambda *given: augmented(*given).double()
    to_double = lambda batch: dataclasses.replace(batch, features=batch.features.double())  # noqa: E731
    part = made.dev.part
    made.dev.part = lambda rank, world: ((number, to_double(batch)) for number, batch in part(rank, world))
    return made


def updates(made: Trainer, count: int) -> list[list]:
    """Return this rank's batches of the first updates."""
    ranks = made.ranks
    stream = made.batches.updates(made.position, G, ranks.rank, ranks.world)
    return [update.batches for update in islice(stream, count)]


def gradients(made: Trainer, batches: list, step: int) -> dict[str, torch.Tensor]:
    """Return the gradients of update `step`, by the names of their parameters."""
    found: dict[str, torch.Tensor] = {}

    def keep(frames: float) -> float:
        named = made.model.named_parameters()
        found.update({name: p.grad / frames for name, p in named if p.grad is not None})
        made.optimizer.zero_grad()
        return 1.0

    made.step, made.optimizer.step = step, keep
    made.update(batches)
    return found


def distilled(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
    """A teacher with other random weights, of the pruned loss, says something of each batch as well."""
    config = changed("train", PRUNED, distill=DistillConfig("teacher", 2.0, 1.5))
    made, file = trainer(cuts, folder, config, ranks), folder / f"teacher-{ranks.rank}.safetensors"
    torch.manual_seed(7)
    weights = build_model(CONFIG, TOKENIZER.vocab_size).state_dict()
    checkpoint.save_model(file, weights, CONFIG, TOKENIZER, {})
    made.phases.distiller = Distiller(file, config, TOKENIZER)
    made.phases.distiller.model.double()
    (batches,) = updates(made, 1)
    return {"gradients": gradients(made, batches, 0)}


def gradients_of(config: Config, step: int = 0) -> Callable[..., Results]:
    def scenario(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
        made = trainer(cuts, folder, config, ranks)
        (batches,) = updates(made, 1)
        return {"gradients": gradients(made, batches, step)}

    return scenario


def a_training(config: Config) -> Callable[..., Results]:
    def scenario(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
        made = trainer(cuts, folder, config, ranks)
        info = made.run()
        return {"weights": made.model.state_dict(), "valid": info["valid"], "phases": made.phases.state_dict(),
                "fingerprint": info["fingerprint"]}  # fmt: skip

    return scenario


def stopped(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
    """The last rank is asked to stop in update `STOP_AT`."""
    made = trainer(cuts, folder, PRUNED, ranks)
    update = made.update

    def update_and_stop(batches: list) -> Any:
        made.stop_requested = made.step + 1 == STOP_AT and ranks.rank == ranks.world - 1
        return update(batches)

    made.update = update_and_stop
    try:
        made.run()
    except Interrupted:
        return {"step": made.step, "files": sorted(path.name for path in (folder / "checkpoints").iterdir())}
    return {}


def gone_on(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
    """Go on with the training that two ranks have stopped."""
    if ranks.is_first:
        shutil.copytree(folder.parent.parent / "2" / "stopped", folder)
    ranks.wait()
    made = trainer(cuts, folder, PRUNED, ranks)
    assert made.resume() and made.step == STOP_AT
    made.run()
    return {"weights": made.model.state_dict()}


def poisoned(spoil: Callable[[Trainer, Batch], None]) -> Callable[..., Results]:
    """The second batch of an update is spoiled."""

    def scenario(cuts: dict[str, Path], folder: Path, ranks: Ranks) -> Results:
        made, told = trainer(cuts, folder, EXACT, ranks), Told()
        logging.getLogger("residualformer").addHandler(told)
        _, first, second = updates(made, 3)  # the very first has fewer batches
        for number, batch in first:
            if number == 1:
                spoil(made, batch)
        before = checkpoint.fingerprint(made.model.state_dict())
        norm = made.update(first)[1]
        made.step += 1
        made.left_out.tell()
        if not math.isfinite(norm):
            made.left_out.note_bad_update(first, made.step)
        changed_by_first = checkpoint.fingerprint(made.model.state_dict()) != before
        logging.getLogger("residualformer").removeHandler(told)
        made.update(second)
        return {"norm": norm, "changed": changed_by_first, "bad": made.left_out.bad_updates, "told": told.messages,
                "weights": made.model.state_dict()}  # fmt: skip

    return scenario


def spoil_features(made: Trainer, batch: Batch) -> None:
    """Leave an utterance of the batch without a finite loss."""
    batch.features[0, 3] = float("nan")


def spoil_gradient(made: Trainer, batch: Batch) -> None:
    """Leave the batch without a finite gradient."""
    losses = made.phases.losses

    def spoiled(given: Batch, features: torch.Tensor) -> BatchLosses:
        found = losses(given, features)
        if given.ids == batch.ids:
            found.sums["loss"] = found.sums["loss"] + float("inf") * made.optimizer.parameters[0].sum()
        return found

    made.phases.losses = spoiled


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


SCENARIOS: dict[str, Callable[..., Results]] = {
    "pruned": gradients_of(PRUNED),
    "exact": gradients_of(EXACT),
    "distilled": distilled,
    "arbitrator": gradients_of(BRANCHES),
    "uniform": gradients_of(BRANCHES, step=2),
    "gumbel": gradients_of(BRANCHES, step=3),
    "training": a_training(changed("train", PRUNED, average_best=2)),  # chooses among more candidates
    "branches": a_training(BRANCHES),
    "stopped": stopped,
    "gone_on": gone_on,
    "nan_loss": poisoned(spoil_features),
    "nan_gradient": poisoned(spoil_gradient),
}


def together(world: int, cuts: dict[str, Path], folder: Path) -> list[dict[str, Results]]:
    """Run all scenarios as `world` ranks; return the results of each rank."""
    folder = folder / str(world)
    folder.mkdir()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    files = json.dumps({name: str(file) for name, file in cuts.items()})
    done = run_program(__file__, world, files, folder, environment={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


def _rank(rank: int, world: int, cuts: dict[str, Path], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["RESIDUALFORMER_ENGINE"] = "plain"  # there is nothing to compile
    torch.Tensor.float = torch.Tensor.double  # the losses would turn all to float32
    ranks = Ranks(rank, world, torch.device("cpu"))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    validation.greedy_search = lambda model, encoded, lengths, **_: [
        Hypothesis([2 + int(length) % 9], [], 0.0) for length in lengths
    ]
    results = {}
    for name, scenario in SCENARIOS.items():
        results[name] = scenario(cuts, folder / name, ranks)
    torch.save(results, folder / f"rank{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    world, files, folder = int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    cuts = {name: Path(file) for name, file in files.items()}
    torch.multiprocessing.start_processes(_rank, (world, cuts, folder), nprocs=world, start_method="fork")
