"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from residualformer.config.schema import OptimizerConfig, TrainConfig
from residualformer.nn.transducer import Transducer

ARBITRATOR = "encoder.arbitrator."  # how its parameters' names begin
RESIDUAL = re.compile(r"encoder\.layers\.\d+\..*\.[ABD]")
HOLD_END = 0.01  # of the learning rate, where `hold` ends


class Optimizer:
    """One step, one state and one schedule over what may be two optimisers.

    `muon` hands `encoder.matrices()` (the shared matrices of Transformer layers, those of each gate of recurrent ones)
    to Muon, whose update is made of equal singular values and scaled to AdamW's size; all else (biases, residuals,
    convolutions, predictor, joiner) is AdamW's. A parameter without a gradient, such as those of an arbitrator that was
    not asked, is left as it is.
    """

    def __init__(self, model: Transducer, config: TrainConfig) -> None:
        optimizer = config.optimizer
        stacked = model.encoder.matrices() if optimizer.kind == "muon" else []
        matrices = [whole for whole, _ in stacked]
        chosen = {id(p) for p in matrices}
        others = {name: p for name, p in model.named_parameters() if id(p) not in chosen}
        kind = torch.optim.Adam if optimizer.kind == "adam" else torch.optim.AdamW
        by_factor: dict[float, dict[str, nn.Parameter]] = {1.0: {}}
        for name, p in others.items():
            by_factor.setdefault(_factor(name, optimizer), {})[name] = p
        groups = []
        for factor, own in by_factor.items():
            own_groups = _decay_groups(own, optimizer.weight_decay)
            groups += [each | {"lr": optimizer.lr * factor} for each in own_groups if each["params"] or factor == 1]
        self.parts: list[torch.optim.Optimizer] = [
            kind(groups, lr=optimizer.lr, betas=tuple(optimizer.betas), eps=1e-9, fused=True)
        ]
        # Muon's parameters: each of the matrices that are stacked in one, in the memory of that one.
        self.stacks = [(whole, [nn.Parameter(one) for one in whole.detach().chunk(n)]) for whole, n in stacked if n > 1]
        if matrices:
            decay = optimizer.weight_decay
            single = [whole for whole, n in stacked if n == 1] + [one for _, rows in self.stacks for one in rows]
            muon = torch.optim.Muon(single, optimizer.muon_lr, decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        factor = learning_rate_factor(optimizer, config.max_steps)
        self.schedules = [LambdaLR(part, factor) for part in self.parts]
        self.parameters = [*others.values(), *matrices]
        self.clip_norm = optimizer.clip_norm

    def step(self) -> float:
        """Clip the gradients, update, go on with the schedule, forget the gradients.

        Returns:
            The gradient's norm before clipping; when it is not finite, or there is none, nothing is updated.
        """
        learning = [parameter for parameter in self.parameters if parameter.grad is not None]
        total = nn.utils.get_total_norm([parameter.grad for parameter in learning], foreach=True)
        norm = float(total)
        if learning and math.isfinite(norm):
            if norm > self.clip_norm:
                nn.utils.clip_grads_with_norm_(learning, self.clip_norm, total, foreach=True)
            for whole, rows in self.stacks:
                for one, gradient in zip(rows, whole.grad.chunk(len(rows)), strict=True):
                    one.grad = gradient
            for part in self.parts:
                part.step()
        for schedule in self.schedules:
            schedule.step()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        for whole, _ in self.stacks:
            whole.grad = None

    @property
    def lr(self) -> float:
        """The current learning rate of the first part."""
        return self.schedules[0].get_last_lr()[0]

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [p.state_dict() for p in self.parts], "schedules": [s.state_dict() for s in self.schedules]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def learning_rate_factor(config: OptimizerConfig, max_steps: int):
    """step -> factor of the learning rate: up to 1 in `warmup_steps`, then down to 0 at `max_steps`.

    `linear` is that of ResidualTransformer (section 4.3), `cosine` a quarter turn slower at both ends. `hold` (AmNets,
    section 5, says "warm-hold-decay" and no more) stays at 1 for `hold_fraction` of the steps after warm-up and then
    falls exponentially, to 0.01 at `max_steps`.
    """

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        left = max(0.0, (max_steps - step) / max(1, max_steps - config.warmup_steps))
        if config.schedule == "hold":
            decay = 1 - config.hold_fraction
            return HOLD_END ** max(0.0, 1 - left / decay) if decay else 1.0
        return left if config.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return factor


def _factor(name: str, optimizer: OptimizerConfig) -> float:
    """Of the learning rate, for the parameter of this name."""
    if name.startswith(ARBITRATOR):
        return optimizer.arbitrator_factor
    return optimizer.residual_factor if RESIDUAL.fullmatch(name) else 1.0


def _decay_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases (of sparse branches: rows of one tensor) and diagonals."""
    decays = {name for name, p in parameters.items() if p.dim() >= 2 and not name.endswith(".bias")}
    return [
        {"params": [p for name, p in parameters.items() if name in decays], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters.items() if name not in decays], "weight_decay": 0.0},
    ]
