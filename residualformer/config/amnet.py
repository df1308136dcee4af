"""The keys of amnet, a section of `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Unit

from residualformer.config.conditions import (
    ARBITRATED,
    ARBITRATED_DEPTH,
    AVERAGE_COST,
    COMPRESSED,
    COST,
    ON_A_DEVICE,
    RECURRENT,
    SPARSE,
    TAUGHT,
)
from residualformer.config.keys import (
    Allowed,
    BelowOne,
    Count,
    Doc,
    Experiment,
    Nats,
    NotNegative,
    Only,
    Positive,
    Updates,
)

BranchControl = Literal["slow", "fast", "random", "loud", "oracle", "blank"]  # who chooses in the arbitrator's place


@dataclass(frozen=True)
class ArbitratorConfig:
    """The network that chooses the branch of each frame (AmNets, section 2), or the depth of each chunk."""

    hidden_dim: Annotated[Count, Doc("width of its layers")] = 128
    num_layers: Annotated[Count, Doc("number of its layers")] = 2
    use_state: Annotated[bool, RECURRENT, Doc("it also sees the last layer's output at the frame before")] = False
    use_decision: Annotated[bool, RECURRENT, Doc("it also sees the decision of the frame before")] = False
    delay: Annotated[
        int,
        Interval(ge=0, le=1),
        Unit("frames"),
        RECURRENT,
        Doc("from a decision to its branch; 1 is eq. 2 to the letter"),
    ] = 0
    teacher: Annotated[Experiment | None, TAUGHT, Doc("experiment whose output entropy it learns to predict")] = None
    pretrain_steps: Annotated[
        Updates, Doc("first updates, in which the arbitrator alone learns, from the teacher; may be all")
    ] = 0
    entropy_threshold: Annotated[Nats, Ge(0), TAUGHT, Doc("frames above it are for the slow branch")] = 2.0
    use_backlog: Annotated[
        bool, ARBITRATED_DEPTH, Doc("it also sees the work that was left when the chunk began, on the device of `mu`")
    ] = False


@dataclass(frozen=True)
class CostConfig:
    """The cost loss beside the transducer loss (AmNets, section 4)."""

    kind: Annotated[Literal["none", "avg", "amr"], ARBITRATED, Doc("none, L_avg (eq. 5) or L_amr (eqs. 6-7)")] = "none"
    weight: Annotated[
        NotNegative, COST, Doc("avg: nats per utterance at a real-time factor of 1; amr: nats per second of delay")
    ] = 0.0
    mu: Annotated[Positive, Unit("FLOP/s"), ON_A_DEVICE, Doc("of the device; a multiply-accumulate is one FLOP")] = (
        650e6
    )
    slow_share: Annotated[
        Annotated[float, Interval(gt=0, lt=1), Allowed("between 0 and 1")] | None,
        AVERAGE_COST,
        Doc("share of slow frames to reach; of several depths those between count by their work"),
    ] = None
    match: Annotated[Experiment | None, AVERAGE_COST, Doc("experiment whose share to reach")] = None


@dataclass(frozen=True)
class AmNetConfig:
    """Branches of a recurrent encoder (AmNets, sections 2 and 3), and the arbitrator of these or of depths.

    One branch is a compressed model without arbitrator; none is the plain recurrent encoder.
    """

    method: Annotated[Literal["none", "sparse", "factorised"], RECURRENT, Doc("how weights are compressed")] = "none"
    compression: Annotated[
        list[BelowOne],
        COMPRESSED,
        Allowed("numbers from 0 to below 1, slow first"),
        Doc("share of the weights that goes, of each branch"),
    ] = field(default_factory=list)
    match: Annotated[
        Experiment | None,
        COMPRESSED,
        Doc("experiment of two branches; in place of `compression`, one branch costs as much as its mean frame of dev"),
    ] = None
    prune_fraction: Annotated[BelowOne, SPARSE, Doc("share of the training; branches are drawn evenly until then")] = (
        0.3
    )
    prune_every_steps: Annotated[
        Count, Unit("updates"), SPARSE, Only("amnet.prune_fraction", Gt(0)), Doc("Δm, between two prunings")
    ] = 100
    block: Annotated[Count, SPARSE, Doc("weights of a row that are pruned together")] = 1
    tau_start: Annotated[Positive, ARBITRATED, Doc("τ, temperature of the Gumbel-softmax, annealed linearly")] = 1.0
    tau_end: Annotated[Positive, ARBITRATED, Doc("τ at the end")] = 0.5
    noise_start: Annotated[
        NotNegative, ARBITRATED, Doc("factor of the Gumbel noise, annealed linearly; 1 is eq. 1, 0 is run time")
    ] = 1.0
    noise_end: Annotated[NotNegative, ARBITRATED, Doc("that factor at the end")] = 1.0
    straight_through: Annotated[
        bool,
        ARBITRATED,
        Doc("a sampled frame takes one branch whole, as at run time, with the gradient of soft decisions"),
    ] = False
    alone_share: Annotated[
        BelowOne,
        ARBITRATED,
        Doc("share of batches that one branch encodes alone, drawn evenly, once nothing is pruned"),
    ] = 0.0
    controls: Annotated[
        list[BranchControl],
        ARBITRATED,
        Allowed("slow, fast, random, loud, oracle, and for depths blank"),
        Doc("who else chooses branches, each in a decoding of its own (docs/models.md)"),
    ] = field(default_factory=list)
    arbitrator: Annotated[ArbitratorConfig, ARBITRATED] = field(default_factory=ArbitratorConfig)
    cost: CostConfig = field(default_factory=CostConfig)
