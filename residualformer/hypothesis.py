"""The result of a search, in PyTorch or without it."""

from __future__ import annotations

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A label sequence, the encoder frame at which each label was written, and its natural log-probability."""

    tokens: list[int]
    frames: list[int]
    score: float

    @property
    def score_per_label(self) -> float:
        """Log-probability per label, by which Graves (2012, section 2.4) chooses among hypotheses.

        The end of the sequence counts as one more label, so that the value is defined for the empty sequence too.
        """
        return self.score / (len(self.tokens) + 1)
