"""A controller of the weight of L_avg that reaches a given share of slow frames (AmNets, table 1, rows `biased`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

INTEGRAL_GAIN = 0.05  # e-folds of the weight per update and per unit of excess share
LAG = 100.0  # updates at the full learning rate after which an arbitrator has followed a change of weight, roughly
SMOOTHING = 0.05  # weight of one update in the running mean of the share
APPROACH = 0.4  # part of the adaptation in which the setpoint moves from the first share to the target


@dataclass
class WeightController:
    """A proportional-integral controller of the logarithm of the weight, driven by the share of slow frames.

    The arbitrator follows the weight with a lag, so that integral control alone would oscillate; the proportional gain
    INTEGRAL_GAIN * LAG cancels the lag. Both gains scale with the learning rate, as the arbitrator's speed does. The
    setpoint approaches the target gradually, because an arbitrator that was driven to "never slow" hardly recovers.
    """

    target: float  # the share of slow frames to reach on the dev set, 0 to 1
    log_weight: float  # the integral part
    first_share: float = -1.0  # the share in the first update; -1 before it
    setpoint: float = 0.0  # the share that is currently aimed at
    mean_share: float = -1.0  # running mean over the updates; -1 before the first
    offset: float = 0.0  # excess of the share on training batches (sped up, masked, joined) over that on the dev set

    @property
    def weight(self) -> float:
        """The weight of L_avg while it adapts."""
        return math.exp(self.log_weight + INTEGRAL_GAIN * LAG * self._excess)

    @property
    def final_weight(self) -> float:
        """The weight once it no longer adapts: without the proportional part, which follows the last batches."""
        return math.exp(self.log_weight)

    @property
    def _excess(self) -> float:
        return self.mean_share - self.offset - self.setpoint if self.mean_share >= 0 else 0.0

    def observe(self, share: float, lr_factor: float, progress: float) -> None:
        """Adapt the weight after an update of the model.

        Args:
            share: the share of slow frames in its batches, with one-hot decisions.
            lr_factor: the learning rate over its maximum.
            progress: part of the adaptation that is over, 0 to 1.
        """
        if self.first_share < 0:
            self.first_share = self.mean_share = share
        self.mean_share += SMOOTHING * (share - self.mean_share)
        self.setpoint = self.first_share + (self.target - self.first_share) * min(progress / APPROACH, 1.0)
        self.log_weight += INTEGRAL_GAIN * lr_factor * self._excess

    def calibrate(self, dev_share: float) -> None:
        """Set `offset` by the share of slow frames on the dev set under the current weights."""
        if self.mean_share >= 0:
            self.offset = self.mean_share - dev_share

    def state_dict(self) -> dict[str, float]:
        """Return all attributes."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
