"""The utterances that a training could not read, of all ranks: named in the log, and refused when they are too many."""

from __future__ import annotations

import logging
from itertools import chain

from residualformer.data.bad import refuse_many
from residualformer.data.batches import Update
from residualformer.train.ranks import Ranks

log = logging.getLogger("residualformer")


class LeftOut:
    """A count of the utterances that a training asked for, and of those that it left out; one that is bad recurs.

    Args:
        max_share: of these among those, see `refuse_many`.
    """

    def __init__(self, max_share: float, ranks: Ranks) -> None:
        self.max_share, self.ranks = max_share, ranks
        self.reasons: dict[str, str] = {}  # by id
        self.times = self.asked = 0
        self._new: list[tuple[dict[str, str], int]] = []  # of this rank

    def add(self, update: Update) -> None:
        """Count the utterances of this rank's part of an update."""
        self._new.append((update.bad, update.asked))

    def tell(self) -> None:
        """Log what is new, on all ranks; UserError if too many are bad."""
        for bad, asked in chain.from_iterable(self.ranks.gather(self._new)):
            for name, reason in bad.items():
                if name not in self.reasons:
                    log.warning("left out of training: %s: %s", name, reason)
            self.reasons |= bad
            self.times, self.asked = self.times + len(bad), self.asked + asked
        self._new = []
        refuse_many(self.reasons, self.times / max(self.asked, 1), self.max_share, "the training set")
