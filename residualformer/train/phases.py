"""The phases of a training (AmNets, sections 2 to 5). Models without branches have just one.

1. `pretrain_steps` updates: only the arbitrator learns, to detect frames at which a teacher's outputs are uncertain.
2. `prune_fraction` of the rest, where branches are sparse: the masks grow (eq. 3), branches are sampled uniformly.
3. Gumbel-softmax decisions (eq. 1) with tau and noise falling linearly, and the cost loss beside the transducer loss.

So it is for a Transformer whose depth an arbitrator chooses, without pruning: what an AmNet decides for each frame, it
decides for each chunk. Both are steps of the encoder.

Letters: N utterances, T frames of features, T' encoder frames, B branches (slow first) or depths (full first).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.compress.prune import BranchPruner, PruningSchedule
from residualformer.config.schema import Config
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.collate import Batch
from residualformer.decode.teacher import Teacher
from residualformer.kernels.precision import bf16_autocast
from residualformer.loss.amortized import amortized_latency, average_cost
from residualformer.loss.distill import SoftTargets
from residualformer.loss.objective import TransducerObjective
from residualformer.model.cost import flops_per_frame
from residualformer.nn.arbitrator import (
    Arbitrator,
    GumbelSoftmax,
    OneBranch,
    Sampler,
    one_hot,
    straight_through,
    uniform_branch,
)
from residualformer.nn.branches import BranchWeights
from residualformer.nn.encoder import BranchedEncoder, Encoded
from residualformer.nn.transducer import Transducer
from residualformer.nn.transformer import TransformerEncoder
from residualformer.padding import chunk_maximum, real_frames
from residualformer.train.distill import Distiller
from residualformer.train.losses import BatchLosses, Number, Ratio
from residualformer.train.optimizer import learning_rate_factor
from residualformer.train.ranks import Ranks
from residualformer.train.threshold import shift_to_work, work_of_branches
from residualformer.train.weight_controller import WeightController

FINAL_PART = 0.2  # of phase 3, at its end, in which an adaptive weight of the cost loss no longer changes


class Phases:
    """A training of one phase, and the hooks by which other trainings differ from it."""

    def __init__(self, config: Config, model: Transducer) -> None:
        self.config, self.model, self.bf16 = config, model, config.train.precision == "bf16"
        self.objective = TransducerObjective(config.loss, self.bf16, config.train.distill.weight)
        self.distiller: Distiller | None = None  # set by those who have a teacher whose outputs are learned as well

    def begin_update(self, step: int) -> list[nn.Parameter] | None:
        """Prepare the model for update `step`. Return the parameters that learn in it, or None for all."""
        return None

    def losses(self, batch: Batch, features: Tensor) -> BatchLosses:
        """Compute the losses of `batch` from its `features` (N, T, F), augmented or not.

        In training mode they are those of the current update; in evaluation mode decisions are those of run time.
        """
        targets = self.soft_targets(batch, features)
        return BatchLosses(self.objective.from_features(self.model, features, batch.feature_lens, batch, targets))

    def soft_targets(self, batch: Batch, features: Tensor) -> SoftTargets | None:
        """Return what the teacher of a distillation says of a batch; None without one, and in evaluation mode."""
        return self.distiller.targets(features, batch) if self.distiller and self.model.training else None

    def observed(self, losses: Sequence[BatchLosses]) -> list[float]:
        """Return the measures of some batches of an update whose sums over all batches `end_update` needs."""
        return []

    def end_update(self, observed: Sequence[float]) -> None:
        """Adapt to an update, given the sums over all its batches, whichever rank had them, of what was observed."""

    def after_validation(self, values: dict[str, float]) -> None:
        """Adapt to the measurements `values` on the dev set."""

    def finalize(self, dev: Iterable[Batch], ranks: Ranks) -> None:
        """Adjust the model after its weights have been averaged, by this rank's batches of the dev set."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to continue, besides the model and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class DepthPhases(Phases):
    """A training of one phase in which each batch is encoded at one of the depths of `encoder.depth`, drawn evenly.

    Draws are from torch's generator on the CPU, which the loop seeds for each batch. In evaluation mode the losses are
    those at the full depth; the transducer loss at each other is a measure of its own, `transducer_2_loops` and so on.
    """

    def losses(self, batch: Batch, features: Tensor) -> BatchLosses:
        served = self.config.encoder.depth.loops
        if self.model.encoder.training:
            drawn = served[int(torch.randint(len(served), ()))]
            return BatchLosses(self._losses_at(batch, features, drawn))
        full, *others = (self._losses_at(batch, features, loops) for loops in served)
        at_others = {f"transducer_{n}_loops": sums["transducer"] for n, sums in zip(served[1:], others, strict=True)}
        return BatchLosses(full | at_others)

    def _losses_at(self, batch: Batch, features: Tensor, loops: int) -> dict[str, Tensor]:
        encoder = self.model.encoder
        assert isinstance(encoder, TransformerEncoder)
        with bf16_autocast(features, self.bf16):
            encoded, lengths = encoder.encode_at(features, batch.feature_lens, loops)
        return self.objective(self.model, encoded, lengths, batch, self.soft_targets(batch, features))


class PruningPhases(Phases):
    """Phase 2, from update `start` to `end`; for a single sparse branch there is no other."""

    def __init__(self, config: Config, model: Transducer) -> None:
        super().__init__(config, model)
        amnet = config.amnet
        self.start = amnet.arbitrator.pretrain_steps
        steps = amnet.prune_fraction * (config.train.max_steps - self.start) if amnet.method == "sparse" else 0
        num_prunings = int(steps // amnet.prune_every_steps)
        self.end = self.start + num_prunings * amnet.prune_every_steps
        weights = [module for module in model.encoder.modules() if isinstance(module, BranchWeights)]
        self.pruners = [
            BranchPruner(
                [each[branch] for each in weights],
                PruningSchedule(compression, num_prunings, amnet.prune_every_steps),
                amnet.block,
            )
            for branch, compression in enumerate(amnet.compression if weights else [])
        ]

    def begin_update(self, step: int) -> list[nn.Parameter] | None:
        for pruner in self.pruners:
            pruner.update(step - self.start)
        return None


class BranchPhases(PruningPhases):
    """All three phases, for two or more branches or depths.

    Args:
        teacher: for phase 1.
        slow_share: share of slow frames on the dev set to which the weight of L_avg adapts; None to keep the weight.
            Of more than two branches, those in between count by their work.
    """

    def __init__(
        self, config: Config, model: Transducer, teacher: Teacher | None = None, slow_share: float | None = None
    ) -> None:
        super().__init__(config, model)
        encoder = model.encoder
        assert isinstance(encoder, BranchedEncoder) and isinstance(encoder.arbitrator, Arbitrator)
        cost, max_steps = config.amnet.cost, config.train.max_steps
        self.encoder, self.arbitrator, self.teacher, self.step = encoder, encoder.arbitrator, teacher, 0
        self.rho = 1 / (self.encoder.shift * FRAME_SHIFT_S)  # steps per second
        self.lr_factor = learning_rate_factor(config.train.optimizer, max_steps)
        self.controller: WeightController | None = None
        if slow_share is not None:
            self.controller = WeightController(slow_share, math.log(cost.weight))
        self.adapt_until = max_steps - FINAL_PART * (max_steps - self.end)

    def begin_update(self, step: int) -> list[nn.Parameter] | None:
        super().begin_update(step)
        self.step = step
        return list(self.arbitrator.parameters()) if step < self.start else None

    def sampler(self) -> Sampler:
        """Return the rule by which the current update chooses branches."""
        if not self.encoder.training or self.step < self.start:
            return one_hot
        if self.step < self.end:
            return uniform_branch
        amnet = self.config.amnet
        if amnet.alone_share and float(torch.rand(())) < amnet.alone_share:
            return OneBranch(int(torch.randint(self.encoder.num_branches, ())))
        progress = (self.step - self.end) / (self.config.train.max_steps - self.end)
        tau = amnet.tau_start + progress * (amnet.tau_end - amnet.tau_start)
        noise = amnet.noise_start + progress * (amnet.noise_end - amnet.noise_start)
        return GumbelSoftmax(tau, noise, amnet.straight_through)

    def losses(self, batch: Batch, features: Tensor) -> BatchLosses:
        if self.encoder.training and self.step < self.start:
            return self._arbitrator_losses(batch, features)
        sampler = self.sampler()
        with bf16_autocast(features, self.bf16):
            encoded = self.encoder.encode(features, batch.feature_lens, sampler)
        targets = self.soft_targets(batch, features)
        sums = self.objective(self.model, encoded.frames, encoded.lengths, batch, targets)
        measures = self._decision_measures(encoded, self.encoder.num_steps(batch.feature_lens))
        ratios: dict[str, Ratio] = {**measures}
        kind = self.config.amnet.cost.kind
        if isinstance(sampler, GumbelSoftmax) and kind != "none":
            weight = self.cost_weight()
            cost, _ = measures["real_time_factor" if kind == "avg" else "delay_s"]
            sums["cost"] = weight * cost
            sums["loss"] = sums["loss"] + sums["cost"]
            ratios["cost_weight"] = (weight, 1)
        return BatchLosses(sums, ratios)

    def observed(self, losses: Sequence[BatchLosses]) -> list[float]:
        """Return the number of slow frames and of all, as long as the weight of the cost loss adapts to them."""
        if not self.controller or not self.end <= self.step < self.adapt_until:
            return []
        shares = [
            torch.stack([torch.as_tensor(part).double() for part in each.ratios["slow_share"]]) for each in losses
        ]
        return torch.stack(shares).sum(0).tolist() if shares else [0.0, 0.0]

    def end_update(self, observed: Sequence[float]) -> None:
        if self.controller and observed:
            slow, frames = observed
            progress = (self.step - self.end) / max(self.adapt_until - self.end, 1)
            if frames:  # 0 where no batch had a finite loss
                self.controller.observe(slow / frames, self.lr_factor(self.step), progress)

    def after_validation(self, values: dict[str, float]) -> None:
        if self.controller:
            self.controller.calibrate(values["slow_share"])

    @torch.no_grad()
    def finalize(self, dev: Iterable[Batch], ranks: Ranks) -> None:
        """Shift the arbitrator's bias so that the share of slow frames on `dev` is the target, where there is one.

        Averaged weights decide otherwise than those that were averaged, and late in training the weight hardly changes
        the share. An arbitrator that sees what earlier decisions led to is left alone.
        """
        arbitrator = self.config.amnet.arbitrator
        if not self.controller or arbitrator.use_state or arbitrator.use_decision or arbitrator.use_backlog:
            return
        self.encoder.eval()
        bias = self.arbitrator.out.bias
        of_rank = [bias.new_empty(0, len(bias))]
        for batch in dev:
            batch = batch.to(bias.device)
            logits = self.encoder.arbitrate(batch.features, batch.feature_lens)
            of_rank.append(logits[real_frames(logits.size(1), self.encoder.num_steps(batch.feature_lens))])
        everywhere = torch.cat([each.to(bias.device) for each in ranks.gather(torch.cat(of_rank).cpu())])
        work = work_of_branches(flops_per_frame(self.model)["branches"]).to(bias)
        bias.add_(shift_to_work(everywhere, work, self.controller.target) * work)

    def state_dict(self) -> dict[str, Any]:
        return {"controller": self.controller.state_dict()} if self.controller else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.controller:
            self.controller.load_state_dict(state["controller"])

    def _arbitrator_losses(self, batch: Batch, features: Tensor) -> BatchLosses:
        """Compute the loss of phase 1 (AmNets, section 5).

        It is the binary cross-entropy between "the arbitrator chooses the slow branch for this frame" and "the
        teacher's entropy at this frame exceeds the threshold"; of a chunk, at any of its frames.
        """
        assert self.teacher is not None
        arbitrator, encoder, lengths = self.config.amnet.arbitrator, self.encoder, batch.feature_lens
        entropy = self.teacher.entropy(features, lengths)  # (N, T')
        of_steps = chunk_maximum(entropy, encoder.output_lengths(lengths), encoder.frames_per_step)
        uncertain = of_steps > arbitrator.entropy_threshold  # (N, steps)
        with bf16_autocast(features, self.bf16):
            logits = encoder.arbitrate(features, lengths).float()  # (N, steps, B)
        real = real_frames(logits.size(1), encoder.num_steps(lengths))
        delay = arbitrator.delay  # the logits decide on the frame so many frames later
        logits = logits[:, : real.size(1) - delay]
        uncertain, real = uncertain[:, delay:], real[:, delay:]
        log_odds = (logits[..., 0] - logits[..., 1:].logsumexp(2))[real]
        labels = uncertain[real]
        loss = F.binary_cross_entropy_with_logits(log_odds, labels.float(), reduction="sum")
        count = max(int(real.sum()), 1)
        sums = {
            "arbitrator_bce": loss.detach(),
            "arbitrator_accuracy": ((log_odds > 0) == labels).sum(),
            "slow_share": (log_odds > 0).sum(),
            "teacher_slow_share": labels.sum(),
        }
        return BatchLosses({"loss": loss}, {name: (total, count) for name, total in sums.items()})

    def _decision_measures(self, encoded: Encoded, steps: Tensor) -> dict[str, tuple[Tensor, Number]]:
        """Compute the share of slow steps (with the decisions of run time), L_avg and L_amr (eqs. 5 and 6).

        Args:
            steps: (N,), those of each utterance.
        """
        assert encoded.decisions is not None and encoded.arbitrator_logits is not None
        # Soft decisions would cost the mean of the branches at every frame, so that no backlog builds up; one-hot ones
        # cost what they cost at run time. The gradient of L_avg, which is linear in q, is the same either way.
        flops, decisions = flops_per_frame(self.model), straight_through(encoded.decisions.float())
        of_branches = torch.tensor(flops["branches"]).to(decisions, non_blocking=True)
        of_frame = decisions @ of_branches + flops["arbitrator"] + flops["output"]
        q = self.encoder.frames_per_step * of_frame  # (N, steps)
        cost = (q, steps, self.config.amnet.cost.mu, self.rho)
        chosen = (encoded.arbitrator_logits if self.encoder.training else decisions).argmax(2)
        real = real_frames(q.size(1), steps)
        work = work_of_branches(flops["branches"]).to(q.device, non_blocking=True)
        slow = (work[chosen] * real).sum()
        return {
            "slow_share": (slow, real.sum()),
            "real_time_factor": (average_cost(*cost).sum(), len(q)),
            "delay_s": (amortized_latency(*cost).sum(), len(q)),
        }

    def cost_weight(self) -> float:
        """Return the weight of the cost loss in the current update, which earlier updates decide."""
        if not self.controller:
            return self.config.amnet.cost.weight
        return self.controller.final_weight if self.step >= self.adapt_until else self.controller.weight


def build_phases(
    config: Config, model: Transducer, teacher: Teacher | None = None, slow_share: float | None = None
) -> Phases:
    """Return the phases of the training of `config`; for `teacher` and `slow_share` see `BranchPhases`."""
    if config.has_arbitrator:
        return BranchPhases(config, model, teacher, slow_share)
    if config.encoder.depth.loops:
        return DepthPhases(config, model)
    return PruningPhases(config, model) if config.amnet.method == "sparse" else Phases(config, model)
