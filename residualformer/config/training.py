"""The keys of `train`, a section of `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval, Predicate, Unit

from residualformer.config.conditions import ARBITRATED, DISTILLED, HOLD, TRANSFORMER
from residualformer.config.keys import (
    Allowed,
    BelowOne,
    Count,
    Doc,
    Experiment,
    Fraction,
    NotNegative,
    Only,
    Positive,
    Updates,
)


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule."""

    kind: Annotated[
        Literal["adam", "adamw", "muon"], Doc("`muon` is Muon for the encoder's matrices and AdamW for all else")
    ] = "adam"
    lr: Annotated[Positive, Doc("peak learning rate, with `muon` that of AdamW's part")] = 1e-3
    muon_lr: Annotated[Positive, Only("train.optimizer.kind", ("muon",)), Doc("that of Muon's part")] = 3e-3
    arbitrator_factor: Annotated[
        Positive, ARBITRATED, Doc("of lr, for the arbitrator, which is new in an encoder that is trained already")
    ] = 1.0
    residual_factor: Annotated[
        Positive, TRANSFORMER, Doc("of lr, for A, B and D, which are new where shared weights are trained already")
    ] = 1.0
    factors: Annotated[
        dict[str, Positive],
        Allowed("shell patterns of parameter names, each with a factor above 0"),
        Doc("factors of both learning rates, as {'encoder.layers.*': 0.3}; of several that match, the last counts"),
    ] = field(default_factory=dict)
    weight_decay: Annotated[NotNegative, Doc("weight decay of the matrices")] = 0.0
    betas: Annotated[
        list[BelowOne],
        Predicate(lambda betas: len(betas) == 2),
        Allowed("two numbers from 0 to below 1"),
        Doc("Adam's decay rates of the moments"),
    ] = field(default_factory=lambda: [0.9, 0.98])
    schedule: Annotated[
        Literal["linear", "cosine", "hold"], Doc("after warm-up: down to 0; or constant, then exponential to 1%")
    ] = "linear"
    warmup_steps: Annotated[Updates, Doc("updates in which the learning rate rises to its peak")] = 1000
    hold_fraction: Annotated[Fraction, HOLD, Doc("share of the updates after warm-up that stay at the peak")] = 0.5
    clip_norm: Annotated[Positive, Doc("largest norm of the gradient")] = 5.0


@dataclass(frozen=True)
class DistillConfig:
    """A trained model, the teacher, whose outputs are learned beside the labels (docs/training.md#distillation)."""

    teacher: Annotated[
        Experiment | None, Doc("experiment of the same features, tokens and frames, whose outputs are learned")
    ] = None
    weight: Annotated[Positive, DISTILLED, Doc("of the divergence from the teacher, beside the transducer loss")] = 1.0
    temperature: Annotated[Positive, DISTILLED, Doc("τ, by which the logits of both are divided")] = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """Length, numbers and records of the training."""

    max_steps: Annotated[Count, Unit("updates"), Doc("length of the training")] = 350_000
    seed: Annotated[int, Ge(0), Doc("of initial weights, batches and all else that is random")] = 1
    batches_per_update: Annotated[
        Count, Doc("batches whose summed gradient makes an update; as many processes can share them, with one result")
    ] = 1
    precision: Annotated[
        Literal["bf16", "fp32"], Doc("bf16: autocast in the encoder, and products in a large vocabulary's loss")
    ] = "bf16"
    freeze: Annotated[
        list[str],
        Allowed("shell patterns of parameter names"),
        Doc("parameters that keep the values of the initial model; also `encoder.mean` and `encoder.std`, if named"),
    ] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    average_last: Annotated[
        Count, Doc("checkpoints in the final average; the last one alone becomes the model if it is better on dev")
    ] = 10
    average_share: Annotated[
        Annotated[float, Interval(gt=0, le=1)], Doc("last share of the updates whose checkpoints are averaged")
    ] = 0.5
    average_best: Annotated[
        int,
        Ge(0),
        Doc("best validations whose checkpoints are kept and averaged as well; the best on dev becomes the model"),
    ] = 0
    patience: Annotated[
        int, Ge(0), Unit("validations"), Doc("in a row without improvement end the training; 0: never")
    ] = 0
    save_every_steps: Annotated[Count, Unit("updates"), Doc("between two checkpoints")] = 1000
    valid_every_steps: Annotated[Count, Unit("updates"), Doc("between two validations on the dev set")] = 1000
    log_every_steps: Annotated[Count, Unit("updates"), Doc("between two records in the log")] = 50
