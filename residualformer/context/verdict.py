"""What a context says of a result in the end: whether it stands, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from residualformer.hypothesis import Hypothesis

SlotValue = str | int


class Heard(NamedTuple):
    """What a context judges: the best hypothesis that it allows, beside what a greedy search finds without it."""

    text: str  # of the best hypothesis
    score: float | None  # its log-probability; None if the context lets no hypothesis end
    free: Hypothesis  # of the search without the context
    frame_s: float  # length of an encoder frame in seconds


SILENCE = Heard("", None, Hypothesis([], [], 0.0), 0.0)


@dataclass(frozen=True)
class Verdict:
    """Whether a result is what was meant to be said."""

    match: bool
    distance: float | None  # how much likelier other speech is, nats per second; None: there is nothing to compare
    slots: Mapping[str, SlotValue | Sequence[SlotValue]] = field(default_factory=dict)  # of a match
    nearest: str = ""  # the text that is refused, where nothing matches

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: `match`, `distance`, `slots`, and `nearest` where nothing matches."""
        values = {"match": self.match, "distance": self.distance, "slots": dict(self.slots)}
        return values if self.match else values | {"nearest": self.nearest}
