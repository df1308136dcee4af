"""What the training batches of an epoch hold: read cut by cut, chosen, shuffled, joined and bucketed.

Every step is lazy and its buffers are bounded, so that neither memory nor the time to the first batch depends on the
size of the training set. A set that is smaller than the buffers is shuffled as a whole.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from residualformer.config.schema import DataConfig
from residualformer.data.shar import Shard, find_shards
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import Utterance, read_utterances
from residualformer.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST = 10_000  # utterances that are looked at before a training, and items that bounds of buckets are estimated from
BUCKET_BUFFER = 10_000  # items in the buckets
BATCH_BUFFER = 1_000  # batches that are shuffled, because the sampler visits buckets in a fixed order
MAX_NAMED = 1_000  # utterances left out that are named


@dataclass(slots=True)
class Item:
    """One utterance, or two that are joined; a cut to Lhotse's sampler."""

    parts: tuple[Utterance, ...]
    duration: float  # in seconds
    dataloading_info: Any = None  # the sampler sets it


class Plan:
    """The contents of the training batches of each epoch; `seed` and epoch determine them.

    Args:
        sources: manifests of stage 2, or folders of Lhotse Shar. Their shards are read one after the other, in an order
            of all shards that each epoch shuffles anew: so every utterance comes once per epoch, and each folder
            contributes according to its size throughout the epoch, which random choices among the folders would not do.

    Raises:
        UserError: no utterance is usable, or a speed of `data` does not occur.
    """

    def __init__(
        self, sources: Sequence[Path], data: DataConfig, tokenizer: Tokenizer, target: str = "text", seed: int = 1
    ) -> None:
        self.data, self.target, self.seed = data, target, seed
        self.skipped: dict[str, str] = {}  # id -> reason, of the first that were left out; also logged
        self._name = ", ".join(map(str, sources))
        self._shards = [shard for source in sources for shard in find_shards(source)]
        self._tokenizer = tokenizer
        self._speeds: set[float] = set()  # seen so far
        self._is_counted = False
        first = list(islice(self._usable(self._shards), FIRST))
        if not self._speeds.issuperset(data.speeds):
            held = sorted(self._speeds)
            raise UserError(f"data.speeds is {data.speeds}, but {self._name} holds speeds {held}: run stage 2 again.")
        if not first:
            raise self._nothing_usable()
        # Joined utterances are separated by a space, except in scripts without spaces, such as Chinese.
        self.separator = " " if any(" " in utterance.text for utterance in first) else ""

    def epoch(self, number: int) -> Iterator[list[Item]]:
        """Yield the contents of the batches of an epoch, without loading features."""
        rng = random.Random(f"{self.seed} {number}")
        utterances = self._usable(rng.sample(self._shards, len(self._shards)))
        if self.data.speed_choice == "random":
            utterances = (each for each in utterances if each.speed == self._chosen_speed(each, number))
        items = self._joined(shuffled(utterances, self.data.shuffle_buffer, rng), rng)
        return shuffled(self._bucketed(items), BATCH_BUFFER, rng)

    def _usable(self, shards: Iterable[Shard]) -> Iterator[Utterance]:
        """Yield what can be trained on, at the speeds of `data`; the first full pass names the others."""
        found = left_out = 0
        named: dict[str, str] = {}
        for utterance in chain.from_iterable(read_utterances(shard, self.target) for shard in shards):
            found += 1
            self._speeds.add(utterance.speed)
            if utterance.speed not in self.data.speeds:
                continue
            if reason := self._reason_to_skip(utterance):
                left_out += 1
                if len(named) < MAX_NAMED:
                    named[utterance.id] = reason
            else:
                yield utterance
        if left_out and not self._is_counted:
            self.skipped = named
            more = "; ..." if left_out > len(named) else ""
            log.warning("%d of %d utterances left out of training: %s%s", left_out, found, self._reasons(), more)
        self._is_counted = True

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())

    def _nothing_usable(self) -> UserError:
        return UserError(f"{self._name}: none of its utterances can be trained on ({self._reasons()[:500]}).")

    def _reason_to_skip(self, utterance: Utterance) -> str:
        if not utterance.text:
            return "no text to learn"
        if not self._tokenizer.knows_any(utterance.text):
            return f"no known token in '{utterance.text}'"
        if not self.data.min_utterance_s <= utterance.duration <= self.data.max_utterance_s:
            bounds = f"{self.data.min_utterance_s} ... {self.data.max_utterance_s} s"
            return f"lasts {utterance.duration:.2f} s, outside {bounds} (data.min_utterance_s, max_utterance_s)"
        return ""

    def _chosen_speed(self, utterance: Utterance, epoch: int) -> float:
        """Return the speed at which an utterance is used in an epoch: one of those that make it neither too long nor
        too short. It is drawn by a hash, so that the copies need not be collected.
        """
        recorded_s = utterance.duration * utterance.speed
        low, high = self.data.min_utterance_s, self.data.max_utterance_s
        fit = [speed for speed in self.data.speeds if low <= recorded_s / speed <= high] or [utterance.speed]
        drawn = hashlib.blake2b(f"{self.seed} {epoch} {utterance.source}".encode(), digest_size=8).digest()
        return fit[int.from_bytes(drawn, "big") % len(fit)]

    def _joined(self, utterances: Iterator[Utterance], rng: random.Random) -> Iterator[Item]:
        """Join neighbors with probability `concat_probability`, unless they are too long together."""
        for first in utterances:
            second = next(utterances, None) if rng.random() < self.data.concat_probability else None
            if second is None:
                yield Item((first,), first.duration)
            elif first.duration + second.duration <= self.data.max_utterance_s:
                yield Item((first, second), first.duration + second.duration)
            else:
                yield from (Item((each,), each.duration) for each in (first, second))

    def _bucketed(self, items: Iterator[Item]) -> Iterator[list[Item]]:
        """Collect items of similar duration into batches."""
        first = list(islice(items, FIRST))
        if not first:
            raise self._nothing_usable()
        constraint = _AudioSeconds(self.data.max_batch_s)
        # Lhotse cannot estimate the bounds of a single bucket, nor of more buckets than there are items.
        count = min(self.data.num_buckets, len(first))
        sampler = DynamicBucketingSampler(
            chain(first, items),
            constraint=constraint,
            duration_bins=estimate_duration_buckets(first, count, constraint) if count > 1 else [],
            buffer_size=BUCKET_BUFFER,
            world_size=1,  # all ranks make the same plan and share its batches themselves
            rank=0,
        )
        return map(list, sampler)


def shuffled(items: Iterable[T], size: int, rng: random.Random) -> Iterator[T]:
    """Yield `items` in random order, uniform if there are at most `size`; else each waits in a buffer of that size.

    Lhotse's `streaming_shuffle` leaves the items that fill its buffer nearly in order.
    """
    rest = iter(items)
    buffer = list(islice(rest, size))
    rng.shuffle(buffer)
    for item in rest:
        place = rng.randrange(size)
        yield buffer[place]
        buffer[place] = item
    yield from buffer


@dataclass
class _AudioSeconds(TimeConstraint):
    """A limit on the seconds of audio in a batch; Lhotse's own counts every utterance as long as the longest."""

    def exceeded(self) -> bool:
        return self.current > self.max_duration

    def close_to_exceeding(self) -> bool:
        return self.current + self.longest_seen > self.max_duration
