"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from residualformer.config.schema import TrainConfig
from residualformer.config.training import OptimizerConfig
from residualformer.nn.arbitrator import ARBITRATOR
from residualformer.nn.language_model import LanguageModel
from residualformer.nn.linear import RESIDUAL_PARTS
from residualformer.nn.transducer import Transducer
from residualformer.train.parameters import rate_factor
from residualformer.train.ranks import Ranks

RESIDUAL = re.compile(rf"encoder\.layers\.\d+\..*\.({'|'.join(RESIDUAL_PARTS)})")
HOLD_END = 0.01  # factor of the learning rate at the end of schedule `hold`


class Optimizer:
    """An optimizer and its learning-rate schedule, or two optimizers that step together.

    With `muon`, the matrices of `encoder.matrices()` (shared ones of Transformer layers, those of each gate of
    recurrent layers) are updated by Muon (Jordan et al., 2024), whose updates have equal singular values and are
    scaled to the size of AdamW's. AdamW updates everything else: biases, residuals, convolutions, predictor, joiner.

    A parameter without a gradient, such as an arbitrator's where it was not used, does not change; one that requires
    none is left out altogether.

    Muon's updates take as long as many a batch, so each of several ranks computes a part of them for all. Every rank
    needs the sums of all gradients, and must call the methods that its neighbors call.
    """

    def __init__(self, model: Transducer | LanguageModel, config: TrainConfig, ranks: Ranks | None = None) -> None:
        optimizer, self.ranks = config.optimizer, ranks or Ranks()
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        stacked = []
        if optimizer.kind == "muon" and isinstance(model, Transducer):
            stacked = [each for each in model.encoder.matrices() if each[0].requires_grad]
        matrices = [matrix for matrix, _ in stacked]
        of_muon = {id(p) for p in matrices}
        others = {name: p for name, p in learned.items() if id(p) not in of_muon}
        self.parts = [_adam(others, optimizer)]
        # Pairs of a parameter in which the matrices of several gates are stacked, and these, which share its memory.
        self.stacks = [
            (matrix, [nn.Parameter(row) for row in matrix.detach().chunk(count)])
            for matrix, count in stacked
            if count > 1
        ]
        single = [(matrix, [matrix]) for matrix, count in stacked if count == 1]
        names = {id(p): name for name, p in learned.items()}
        members: dict[float, list[nn.Parameter]] = {}  # by the factor of the learning rate
        for matrix, rows in [*single, *self.stacks]:
            members.setdefault(rate_factor(names[id(matrix)], optimizer.factors), []).extend(rows)
        self.of_muon = [row for rows in members.values() for row in rows]
        self.owners = _owners(self.of_muon, self.ranks.world)
        if matrices:
            groups = [{"params": rows, "lr": optimizer.muon_lr * factor} for factor, rows in members.items()]
            decay = optimizer.weight_decay
            self.parts.append(torch.optim.Muon(groups, optimizer.muon_lr, decay, adjust_lr_fn="match_rms_adamw"))
        self.factor = learning_rate_factor(optimizer, config.max_steps)
        self.schedules = [LambdaLR(part, self.factor) for part in self.parts]
        self.parameters = [*others.values(), *matrices]
        self.clip_norm = optimizer.clip_norm

    def step(self, frames: float = 1.0) -> float:
        """Divide the gradients by `frames`, clip them, update the parameters, advance the schedule, clear gradients.

        Return the norm of the gradients before clipping, nan without any. If it is not finite, no parameter changes.
        """
        parameters = [p for p in self.parameters if p.grad is not None]
        total = nn.utils.get_total_norm([_gradient(p) for p in parameters], foreach=True)
        norm = float(total) / frames if parameters else math.nan
        if math.isfinite(norm):
            if frames != 1 or norm > self.clip_norm:
                # Division and clipping in one: a norm of `total` becomes the smaller one.
                nn.utils.clip_grads_with_norm_(parameters, min(norm, self.clip_norm), total, foreach=True)
            for matrix, rows in self.stacks:
                for row, gradient in zip(rows, _gradient(matrix).chunk(len(rows)), strict=True):
                    row.grad = gradient
            for matrix, owner in zip(self.of_muon, self.owners, strict=True):
                if owner != self.ranks.rank:
                    matrix.grad = None
            for part in self.parts:
                part.step()
            self.ranks.share(self.of_muon, self.owners)
        for schedule in self.schedules:
            schedule.step()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        for matrix, _ in self.stacks:
            matrix.grad = None

    @property
    def lr(self) -> float:
        """The current learning rate of Adam or AdamW."""
        return float(self.schedules[0].get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the updates made, and each optimizer's state of each parameter, by the parameter's number as text."""
        states = [part.state_dict()["state"] for part in self.parts]
        for muon in states[1:]:
            own = {number: values for number, values in muon.items() if self.owners[number] == self.ranks.rank}
            for of_rank in self.ranks.gather(own):
                muon.update(of_rank)
        return {
            "updates": self.schedules[0].last_epoch,
            "parts": [{str(number): values for number, values in state.items()} for state in states],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Learning rates and their schedule stay those of the configuration."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            values = {int(number): _laid_out(each, parameters[int(number)]) for number, each in saved.items()}
            part.load_state_dict({"state": values, "param_groups": part.state_dict()["param_groups"]})
        self.schedules = [LambdaLR(part, self.factor, last_epoch=state["updates"] - 1) for part in self.parts]


def learning_rate_factor(config: OptimizerConfig, max_steps: int) -> Callable[[int], float]:
    """Return the schedule: a function from the step to a factor of the learning rate.

    The factor rises linearly to 1 in `warmup_steps`, then falls until `max_steps`:

    * `linear`: linearly to 0 (ResidualTransformer, section 4.3).
    * `cosine`: to 0 by half a cosine wave.
    * `hold`: stays at 1 for `hold_fraction` of the steps after warm-up, then falls exponentially to 0.01. AmNets,
      section 5, gives only its name, "warm-hold-decay".
    """

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        left = max(0.0, (max_steps - step) / max(1, max_steps - config.warmup_steps))
        if config.schedule == "linear":
            return left
        if config.schedule == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * left)
        decay = 1 - config.hold_fraction
        return HOLD_END ** max(0.0, 1 - left / decay) if decay else 1.0

    return factor


def _adam(parameters: dict[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW with a group for each learning rate and weight decay.

    Matrices decay; diagonals and biases, even stacked ones of branches, do not.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}  # the first gives `lr`
    for name, p in parameters.items():
        factor = _learning_rate_factor_of(name, config)
        for decays in (True, False):
            members.setdefault((factor, decays), [])
        members[factor, p.dim() >= 2 and not name.endswith(".bias")].append(p)
    groups = [
        {"params": group, "lr": config.lr * factor, "weight_decay": config.weight_decay if decays else 0.0}
        for (factor, decays), group in members.items()
        if group or factor == 1
    ]
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    beta1, beta2 = config.betas
    return kind(groups, lr=config.lr, betas=(beta1, beta2), eps=1e-9, fused=True)


def _learning_rate_factor_of(name: str, config: OptimizerConfig) -> float:
    """Return the factor of the learning rate for the parameter `name`."""
    own = rate_factor(name, config.factors)
    if name.startswith(ARBITRATOR):
        return own * config.arbitrator_factor
    return own * config.residual_factor if RESIDUAL.fullmatch(name) else own


def _owners(matrices: Sequence[Tensor], world: int) -> list[int]:
    """Return the rank that updates each of `matrices`, so that all have about as much to compute."""
    work = [0] * world
    owners = [0] * len(matrices)
    for number in sorted(range(len(matrices)), key=lambda number: -matrices[number].numel()):
        owners[number] = work.index(min(work))
        work[owners[number]] += matrices[number].numel() * min(
            matrices[number].shape
        )  # multiplications, up to a factor
    return owners


def _laid_out(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Return the state of a parameter, its tensors in the parameter's order in memory, which fused optimizers assume.

    Files keep no such order; that of the factors of a matrix is by columns.
    """
    return {
        name: torch.empty_like(parameter).copy_(value)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in values.items()
    }


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
