"""What a training could not use, of all ranks: utterances and updates, named in the log, refused when too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from residualformer.data.bad import refuse_many
from residualformer.data.collate import Batch
from residualformer.errors import UserError
from residualformer.train.ranks import Ranks

log = logging.getLogger("residualformer")

MAX_BAD_UPDATES = 20  # in a row


@with_config(ConfigDict(strict=True))
class Counts(TypedDict):
    """How often utterances were asked for and left out in a training so far."""

    reasons: dict[str, str]  # by id
    times: int  # that one was left out; one that is bad recurs
    asked: int


class LeftOut:
    """The count of the utterances that a training asked for, and of those that it left out.

    Args:
        max_share: of these among those, see `refuse_many`.
    """

    def __init__(self, max_share: float, ranks: Ranks) -> None:
        self.max_share, self.ranks = max_share, ranks
        self.counts = Counts(reasons={}, times=0, asked=0)
        self.bad_updates = 0  # in a row
        self._new: list[tuple[Mapping[str, str], int]] = []  # of this rank
        self._noise: set[str] = set()  # files of it that were named

    def add(self, bad: Mapping[str, str], asked: int = 0, noise: Mapping[str, str] | None = None) -> None:
        """Count utterances of this rank: those that were left out, with reasons by id, and all that were asked for.

        Files of `noise` that could not be read are logged, once each; others took their place.
        """
        self._new.append((bad, asked))
        for name, reason in (noise or {}).items():
            if name not in self._noise:
                log.warning("noise skipped: %s: %s", name, reason)
            self._noise.add(name)

    def tell(self) -> None:
        """Log what is new, on all ranks; UserError if too many are bad."""
        counts = self.counts
        for bad, asked in chain.from_iterable(self.ranks.gather(self._new)):
            for name, reason in bad.items():
                if name not in counts["reasons"]:
                    log.warning("left out of training: %s: %s", name, reason)
            counts["reasons"] |= bad
            counts["times"], counts["asked"] = counts["times"] + len(bad), counts["asked"] + asked
        self._new = []
        refuse_many(counts["reasons"], counts["times"] / max(counts["asked"], 1), self.max_share, "the training set")

    def note_bad_update(self, batches: Sequence[tuple[int, Batch]], step: int) -> None:
        """Log, on all ranks, that update `step` had no finite gradient; UserError after `MAX_BAD_UPDATES` in a row."""
        self.bad_updates += 1
        everywhere = self.ranks.gather([(number, batch.ids) for number, batch in batches])
        names = [name for _, ids in sorted(chain.from_iterable(everywhere)) for name in ids][:8]
        log.warning("step %d: the gradient is not finite; update skipped; utterances %s", step, names)
        if self.bad_updates >= MAX_BAD_UPDATES:
            raise UserError(f"{self.bad_updates} updates in a row had no finite gradient; lower train.optimizer.lr")

    def describe(self) -> dict[str, Any]:
        """Return how many utterances were left out, and which share of those asked for."""
        counts = self.counts
        return {"utterances": len(counts["reasons"]), "share": round(counts["times"] / max(counts["asked"], 1), 6)}
