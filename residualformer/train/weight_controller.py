"""A weight of L_avg that leads to a wanted share of slow frames: the `biased` rows of AmNets, table 1."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

INTEGRAL_GAIN = 0.05  # e-folds of the weight per update, and per unit of share that is too much
LAG = 100.0  # updates at the full learning rate that the arbitrator takes to follow its weight, roughly
SMOOTHING = 0.05  # of a batch in the running mean of the share
APPROACH = 0.4  # of the time in which the weight adapts: the share that is sought moves from where it is to the target


@dataclass
class WeightController:
    """Proportional-integral control of the logarithm of the weight by the share of slow frames.

    The arbitrator follows the weight with a lag, so an integral alone would swing; the proportional part, which is
    INTEGRAL_GAIN * LAG, cancels that lag. Both are slowed with the learning rate, because the arbitrator is. What is
    sought moves to the target step by step: an arbitrator that was driven to "never slow" hardly finds back.

    Attributes:
        target: the share of slow frames on the dev set that is wanted.
        log_weight: the integral part.
        begun: the share on the first training batch; -1 before that.
        sought: the share that is sought at present.
        share: running mean over the training batches; -1 before the first.
        offset: what the share on training batches (sped up, masked, joined) has more than on the dev set.
    """

    target: float
    log_weight: float
    begun: float = -1.0
    sought: float = 0.0
    share: float = -1.0
    offset: float = 0.0

    @property
    def weight(self) -> float:
        """The weight of L_avg while it adapts."""
        return math.exp(self.log_weight + INTEGRAL_GAIN * LAG * self._surplus)

    @property
    def held(self) -> float:
        """The weight when it does not adapt any more: without the part that answers to the last batches."""
        return math.exp(self.log_weight)

    @property
    def _surplus(self) -> float:
        return self.share - self.offset - self.sought if self.share >= 0 else 0.0

    def observe(self, share: float, pace: float, done: float) -> None:
        """Take in the share of slow frames (one-hot) of a training batch.

        Args:
            pace: learning rate over its highest.
            done: part of the time in which the weight adapts that is over.
        """
        if self.begun < 0:
            self.begun = self.share = share
        self.share += SMOOTHING * (share - self.share)
        self.sought = self.begun + (self.target - self.begun) * min(done / APPROACH, 1.0)
        self.log_weight += INTEGRAL_GAIN * pace * self._surplus

    def calibrate(self, dev_share: float) -> None:
        """Take in the share of slow frames on the dev set with the present weights."""
        if self.share >= 0:
            self.offset = self.share - dev_share

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.__dict__.update(state)
