"""What changes in the course of a training (AmNets, sections 2 to 5); without compression nothing does.

1. `pretrain_steps` updates: the arbitrator alone learns to tell the frames at which a teacher's outputs are uncertain.
2. `prune_fraction` of the rest, where branches are sparse: the masks grow (eq. 3), branches are drawn evenly.
3. Gumbel-softmax decisions (eq. 1), tau and noise falling linearly, and the cost loss beside the transducer loss.

Letters: N utterances, T' encoder frames, B branches, slow first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.compress.prune import BranchPruner, PruningSchedule
from residualformer.config.schema import Config
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.collate import Batch
from residualformer.kernels.precision import bf16_autocast
from residualformer.loss.amortized import amortized_latency, average_cost
from residualformer.loss.objective import TransducerObjective
from residualformer.model.cost import flops_per_frame
from residualformer.nn.arbitrator import GumbelSoftmax, OneHot, Sampler, UniformBranch
from residualformer.nn.branches import BranchWeights
from residualformer.nn.recurrent import Encoded
from residualformer.nn.transducer import Transducer
from residualformer.padding import real_frames
from residualformer.train.metrics import Losses
from residualformer.train.optimizer import learning_rate_factor
from residualformer.train.teacher import Teacher
from residualformer.train.weight_controller import WeightController

HELD = 0.2  # of the third phase, at its end, in which a weight that adapts is held


class Phases:
    """A training that is the same from its first update to its last; what the others have in common."""

    def __init__(self, config: Config, model: Transducer) -> None:
        self.config, self.model, self.bf16 = config, model, config.train.precision == "bf16"
        self.objective = TransducerObjective(config.loss, self.bf16)

    def begin(self, step: int) -> list[nn.Parameter] | None:
        """Prepare the model for update `step`; gives the parameters that alone learn in it, None for all."""
        return None

    def losses(self, batch: Batch, features: Tensor) -> Losses:
        """Of one batch and its `features` (N, T, F): of the update that has begun, or, in eval mode, at run time."""
        return Losses(self.objective.from_features(self.model, features, batch.feature_lens, batch))

    def validated(self, values: dict[str, float]) -> None:
        """Take in what was measured on the dev set in the course of the training."""

    def settle(self, dev: Iterable[Batch]) -> None:
        """Last touches to the model whose weights are final."""

    def state_dict(self) -> dict[str, Any]:
        """What must be known to go on as if never interrupted, beside model, optimiser and random numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Pruning(Phases):
    """Phase 2, on its own where there is one sparse branch.

    Attributes:
        start, end: the updates at which pruning starts and at which all masks are final.
    """

    def __init__(self, config: Config, model: Transducer) -> None:
        super().__init__(config, model)
        amnet = config.amnet
        self.start = amnet.arbitrator.pretrain_steps
        wanted = amnet.prune_fraction * (config.train.max_steps - self.start) if amnet.method == "sparse" else 0
        updates = int(wanted // amnet.prune_every_steps)
        self.end = self.start + updates * amnet.prune_every_steps
        weights = [module for module in model.encoder.modules() if isinstance(module, BranchWeights)]
        self.pruners = [
            BranchPruner(
                [each[branch] for each in weights],
                PruningSchedule(final, updates, amnet.prune_every_steps),
                amnet.block,
            )
            for branch, final in enumerate(amnet.compression if weights else [])
        ]

    def begin(self, step: int) -> list[nn.Parameter] | None:
        for pruner in self.pruners:
            pruner.update(step - self.start)
        return None


class Branches(Pruning):
    """All three phases, for two branches or more.

    Args:
        teacher: for phase 1.
        slow_share: the share of slow frames on the dev set that the weight of L_avg is to lead to, if it adapts.
    """

    def __init__(
        self, config: Config, model: Transducer, teacher: Teacher | None = None, slow_share: float | None = None
    ) -> None:
        super().__init__(config, model)
        cost, max_steps = config.amnet.cost, config.train.max_steps
        self.encoder, self.teacher, self.step = model.encoder, teacher, 0
        self.rho = 1 / (self.encoder.stride * FRAME_SHIFT_S)  # encoder frames per second
        self.pace = learning_rate_factor(config.train.optimizer, max_steps)
        self.controller = None
        if slow_share is not None:
            self.controller = WeightController(slow_share, math.log(cost.weight))
        self.held_from = max_steps - HELD * (max_steps - self.end)

    def begin(self, step: int) -> list[nn.Parameter] | None:
        super().begin(step)
        self.step = step
        return list(self.encoder.arbitrator.parameters()) if step < self.start else None

    def sampler(self) -> Sampler:
        """How the update that has begun makes decisions."""
        if not self.encoder.training or self.step < self.start:
            return OneHot()
        if self.step < self.end:
            return UniformBranch()
        amnet = self.config.amnet
        done = (self.step - self.end) / (self.config.train.max_steps - self.end)
        tau = amnet.tau_start + done * (amnet.tau_end - amnet.tau_start)
        return GumbelSoftmax(tau, amnet.noise_start + done * (amnet.noise_end - amnet.noise_start))

    def losses(self, batch: Batch, features: Tensor) -> Losses:
        if self.encoder.training and self.step < self.start:
            return self._pretraining(batch, features)
        with bf16_autocast(features, self.bf16):
            encoded = self.encoder.encode(features, batch.feature_lens, self.sampler())
        real = real_frames(encoded.frames.size(1), encoded.lengths)
        sums = self.objective(self.model, encoded.frames, encoded.lengths, batch)
        shares = self._shares(encoded, real)
        if self.encoder.training and self.step >= self.end and self.config.amnet.cost.kind != "none":
            total, count = shares["slow_share"]
            weight = self._weight(float(total) / count)
            kind = {"avg": "real_time_factor", "amr": "delay_s"}[self.config.amnet.cost.kind]
            sums["cost"] = weight * shares[kind][0]
            sums["loss"] = sums["loss"] + sums["cost"]
            shares["cost_weight"] = (weight, 1)
        return Losses(sums, shares)

    def validated(self, values: dict[str, float]) -> None:
        if self.controller:
            self.controller.calibrate(values["slow_share"])

    @torch.no_grad()
    def settle(self, dev: Iterable[Batch]) -> None:
        """Move the threshold between slow and the rest so that the share of slow frames on `dev` is the one sought.

        Averaged weights decide otherwise than those that were averaged, and near the end a weight hardly moves a share.
        An arbitrator that looks at states or decisions is left alone: its odds change with what was decided before.
        """
        arbitrator = self.config.amnet.arbitrator
        if not self.controller or arbitrator.use_state or arbitrator.use_decision:
            return
        self.encoder.eval()
        device, odds = self.encoder.mean.device, []
        for batch in (each.to(device) for each in dev):
            logits = self.encoder.arbitrate(batch.features, batch.feature_lens)
            real = real_frames(logits.size(1), self.encoder.output_lengths(batch.feature_lens))
            odds.append((logits[..., 0] - logits[..., 1:].amax(2))[real])
        ranked = torch.cat(odds).sort(descending=True).values
        slow = min(max(round(self.controller.target * len(ranked)), 1), len(ranked) - 1)
        self.encoder.arbitrator.out.bias[0] -= ranked[slow - 1 : slow + 1].mean()

    def state_dict(self) -> dict[str, Any]:
        return {"controller": self.controller.state_dict()} if self.controller else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.controller:
            self.controller.load_state_dict(state["controller"])

    def _pretraining(self, batch: Batch, features: Tensor) -> Losses:
        """Binary cross-entropy of "this frame is for the slow branch" with "the teacher is uncertain at this frame"."""
        arbitrator = self.config.amnet.arbitrator
        slow = self.teacher.entropy(features, batch.feature_lens) > arbitrator.entropy_threshold
        with bf16_autocast(features, self.bf16):
            logits = self.encoder.arbitrate(features, batch.feature_lens).float()
        real = real_frames(logits.size(1), self.encoder.output_lengths(batch.feature_lens))
        delay = arbitrator.delay  # with one, the logits decide on a later frame
        logits = logits[:, : real.size(1) - delay]
        slow, real = slow[:, delay:], real[:, delay:]
        odds = logits[..., 0] - logits[..., 1:].logsumexp(2)
        entropy = F.binary_cross_entropy_with_logits(odds[real], slow[real].float(), reduction="sum")
        frames = max(int(real.sum()), 1)
        right = (odds[real] > 0) == slow[real]
        shares = {"arbitrator_bce": entropy.detach(), "arbitrator_accuracy": right.sum()}
        shares |= {"slow_share": (odds[real] > 0).sum(), "teacher_slow_share": slow[real].sum()}
        return Losses({"loss": entropy}, {name: (value, frames) for name, value in shares.items()})

    def _shares(self, encoded: Encoded, real: Tensor) -> dict[str, tuple[Tensor, float]]:
        """What the decisions amount to: the share of slow frames (as if at run time), their L_avg and L_amr."""
        flops, decisions = flops_per_frame(self.model), _taken_whole(encoded.decisions.float())
        q = decisions @ decisions.new_tensor(flops["branches"]) + flops["arbitrator"] + flops["output"]  # (N, T')
        cost = (q, encoded.lengths, self.config.amnet.cost.mu, self.rho)
        chosen = (encoded.arbitrator_logits if self.encoder.training else decisions).argmax(2)
        slow = ((chosen == 0) & real).sum()
        return {
            "slow_share": (slow, max(int(real.sum()), 1)),
            "real_time_factor": (average_cost(*cost).sum(), len(q)),
            "delay_s": (amortized_latency(*cost).sum(), len(q)),
        }

    def _weight(self, share: float) -> float:
        """The cost loss's weight in this update, in which `share` of the frames are slow."""
        if not self.controller:
            return self.config.amnet.cost.weight
        if self.step >= self.held_from:
            return self.controller.held
        done = (self.step - self.end) / max(self.held_from - self.end, 1)
        self.controller.observe(share, self.pace(self.step), done)
        return self.controller.weight


def _taken_whole(decisions: Tensor) -> Tensor:
    """Soft decisions (N, T', B) as one-hot ones with the gradient of the soft ones.

    A frame that is half slow costs the mean of both branches, and no backlog builds up of such frames; one that is slow
    or fast by chance costs one of the two, and does at run time. L_avg, linear in q, has the same gradient either way.
    """
    hard = F.one_hot(decisions.detach().argmax(2), decisions.size(2))
    return decisions + (hard - decisions).detach()


def phases_of(
    config: Config, model: Transducer, teacher: Teacher | None = None, slow_share: float | None = None
) -> Phases:
    """The phases that the training of `config` goes through; see `Branches`."""
    if len(config.amnet.compression) > 1:
        return Branches(config, model, teacher, slow_share)
    return Pruning(config, model) if config.amnet.method == "sparse" else Phases(config, model)
