"""What the training batches of an epoch hold: read cut by cut, chosen, shuffled, joined and bucketed.

Every step is lazy and its buffers are bounded, so that neither memory nor the time to the first batch depends on the
size of the training set. A set that is smaller than the buffers is shuffled as a whole.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from residualformer.config.schema import DataConfig, WaveformConfig
from residualformer.data.shar import Shard, find_shards
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import Utterance, read_utterances
from residualformer.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST = 10_000  # utterances that are looked at before a training, and items that bounds of buckets are estimated from
BUCKET_BUFFER = 10_000  # items in the buckets
BATCH_BUFFER = 1_000  # batches that updates are drawn from
MAX_NAMED = 1_000  # utterances left out that are named


@dataclass(slots=True)
class Item:
    """One utterance, or several that are joined; a cut to Lhotse's sampler."""

    parts: tuple[Utterance, ...]
    duration: float  # in seconds, with the pauses
    pauses: tuple[float, ...] = ()  # seconds before each part but the first; () for none
    dataloading_info: Any = None  # the sampler sets it


class Pass(NamedTuple):
    """One of the times that an epoch reads a shard; further ones are for the copies of utterances."""

    shard: Shard
    number: int  # from 0
    weight: float  # how often an utterance comes in an epoch


class Plan:
    """The contents of the training batches of each epoch; `seed` and epoch determine them.

    Args:
        sources: manifests of stage 2, or folders of Lhotse Shar. Their shards are read one after the other, in an order
            of all shards that each epoch shuffles anew: so every utterance comes once per epoch, and each folder
            contributes according to its size throughout the epoch, which random choices among the folders would not do.
            With `data.weights` an utterance comes as often as the weight of its folder tells, and a shard is read, in
            this order, as often as its utterances may come.

    Raises:
        UserError: no utterance is usable, or a speed of `data` does not occur.
    """

    def __init__(
        self, sources: Sequence[Path], data: DataConfig, tokenizer: Tokenizer, target: str = "text", seed: int = 1
    ) -> None:
        self.data, self.target, self.seed = data, target, seed
        self.skipped: dict[str, str] = {}  # id -> reason, of the first that were left out; also logged
        self._name = ", ".join(map(str, sources))
        weighted = zip(sources, data.weights or [1.0] * len(sources), strict=True)
        shards = [(shard, weight) for source, weight in weighted for shard in find_shards(source)]
        self._passes = [Pass(shard, n, weight) for shard, weight in shards for n in range(math.ceil(weight))]
        self._tokenizer = tokenizer
        self._speeds: set[float] = set()  # seen so far
        self._is_counted = False
        first = list(islice(self._usable(each for each in self._passes if not each.number), FIRST))
        if not self._speeds.issuperset(data.speeds):
            held = sorted(self._speeds)
            raise UserError(f"data.speeds is {data.speeds}, but {self._name} holds speeds {held}: run stage 2 again.")
        if not first:
            raise self._nothing_usable()
        # Joined utterances are separated by a space, except in scripts without spaces, such as Chinese.
        self.separator = " " if any(" " in utterance.text for utterance in first) else ""

    def epoch(self, number: int, per_update: int = 1) -> Iterator[list[list[Item]]]:
        """Yield the contents of the batches of each update of an epoch, without loading features.

        An update has `per_update` batches of similar duration; one may have fewer, if there are too few for all.
        """
        rng = random.Random(f"{self.seed} {number}")
        utterances = self._usable(rng.sample(self._passes, len(self._passes)), number)
        items = self._joined(shuffled(utterances, self.data.shuffle_buffer, rng), rng)
        return drawn_updates(self._bucketed(items), per_update, rng)

    def _usable(self, passes: Iterable[Pass], epoch: int | None = None) -> Iterator[Utterance]:
        """Yield what can be trained on, at the speeds of `data`, and is drawn in an epoch, if one is given.

        The first time that all is read names what cannot be trained on.
        """
        found = left_out = 0
        named: dict[str, str] = {}
        for each, utterance in ((p, utterance) for p in passes for utterance in self._read(p.shard)):
            found += not each.number
            self._speeds.add(utterance.speed)
            if utterance.speed not in self.data.speeds or not self._is_in_share(utterance):
                continue
            if reason := self._reason_to_skip(utterance):
                left_out += not each.number
                if len(named) < MAX_NAMED:
                    named[utterance.id] = reason
            elif epoch is None or self._is_drawn(utterance, each, epoch):
                yield utterance
        if left_out and not self._is_counted:
            self.skipped = named
            more = "; ..." if left_out > len(named) else ""
            log.warning("%d of %d utterances left out of training: %s%s", left_out, found, self._reasons(), more)
        self._is_counted = True

    def _read(self, shard: Shard) -> Iterator[Utterance]:
        return read_utterances(shard, self.target, self.data.waveform != WaveformConfig())

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())

    def _nothing_usable(self) -> UserError:
        why = self._reasons()[:500] or "data.share or data.weights leave none for this epoch: give more"
        return UserError(f"{self._name}: none of its utterances can be trained on ({why}).")

    def _reason_to_skip(self, utterance: Utterance) -> str:
        if not utterance.text:
            return "no text to learn"
        if not self._tokenizer.knows_any(utterance.text):
            return f"no known token in '{utterance.text}'"
        if not self.data.min_utterance_s <= utterance.duration <= self.data.max_utterance_s:
            bounds = f"{self.data.min_utterance_s} ... {self.data.max_utterance_s} s"
            return f"lasts {utterance.duration:.2f} s, outside {bounds} (data.min_utterance_s, max_utterance_s)"
        return ""

    def _is_in_share(self, utterance: Utterance) -> bool:
        """Return whether an utterance, at all speeds, is of the `data.share` that is used, the same in all epochs."""
        return self.data.share == 1 or self._hash("share", utterance) < self.data.share * 2**64

    def _is_drawn(self, utterance: Utterance, each: Pass, epoch: int) -> bool:
        """Return whether a pass over its shard gives an utterance, at this speed, to an epoch.

        With weight w an utterance has come floor(w n + own) times after n epochs, where `own` is a number of its own
        from [0, 1): so the utterances of a folder have always come equally often, but for one time.
        """
        own = (self._hash("weight", utterance) >> 32) / 2**32
        before, after = (math.floor(each.weight * epochs + own) for epochs in (epoch, epoch + 1))
        if each.number >= after - before:
            return False
        return self.data.speed_choice == "all" or utterance.speed == self._chosen_speed(utterance, epoch, each.number)

    def _chosen_speed(self, utterance: Utterance, epoch: int, number: int) -> float:
        """Return the speed at which a pass of an epoch uses an utterance: one of those that make it neither too long
        nor too short. It is drawn by a hash, so that the copies need not be collected.
        """
        recorded_s = utterance.duration * utterance.speed
        low, high = self.data.min_utterance_s, self.data.max_utterance_s
        fit = [speed for speed in self.data.speeds if low <= recorded_s / speed <= high] or [utterance.speed]
        return fit[self._hash(f"{epoch}.{number}" if number else str(epoch), utterance) % len(fit)]

    def _hash(self, purpose: str, utterance: Utterance) -> int:
        """Return a number below 2^64 that is as good as random, the same for all speeds of an utterance."""
        text = f"{self.seed} {purpose} {utterance.source}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def _joined(self, utterances: Iterator[Utterance], rng: random.Random) -> Iterator[Item]:
        """Join neighbors with probability `concat_probability`, unless they are too long together."""
        longest = self.data.max_utterance_s
        for first in utterances:
            item = Item((first,), first.duration)
            while len(item.parts) < self.data.concat_most and rng.random() < self.data.concat_probability:
                following = next(utterances, None)
                if following is None:
                    break
                room = longest - item.duration - following.duration
                if room < 0:
                    yield item
                    item = Item((following,), following.duration)
                    break
                pause = min(self._pause_s(rng), room)
                pauses = (*item.pauses, pause) if self._has_pauses else ()
                item = Item((*item.parts, following), item.duration + pause + following.duration, pauses)
            yield item

    @property
    def _has_pauses(self) -> bool:
        return bool(self.data.pause.longest_s or self.data.pause.long_probability)

    def _pause_s(self, rng: random.Random) -> float:
        """Draw the seconds of a pause; short ones are likelier, by the square of a uniform number."""
        pause = self.data.pause
        if not self._has_pauses:
            return 0.0
        is_long, share = rng.random() < pause.long_probability, rng.random()
        return share * pause.very_long_s if is_long else share**2 * pause.longest_s

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


def drawn_updates(batches: Iterable[list[Item]], per_update: int, rng: random.Random) -> Iterator[list[list[Item]]]:
    """Draw updates of `per_update` batches at random from a buffer of about `BATCH_BUFFER`, each used once.

    The batches of an update have neighboring durations, so that ranks which compute one each end at the same time.
    """
    rest = iter(batches)
    size = max(1, BATCH_BUFFER // per_update) * per_update  # whole updates
    buffer = sorted(islice(rest, size), key=_longest)
    while buffer:
        start = per_update * rng.randrange(-(-len(buffer) // per_update))
        yield buffer[start : start + per_update]
        del buffer[start : start + per_update]
        for batch in islice(rest, per_update):
            insort(buffer, batch, key=_longest)


def _longest(batch: list[Item]) -> float:
    return max(item.duration for item in batch)


@dataclass
class _AudioSeconds(TimeConstraint):
    """A limit on the seconds of audio in a batch; Lhotse's own counts every utterance as long as the longest."""

    def exceeded(self) -> bool:
        return self.current > self.max_duration

    def close_to_exceeding(self) -> bool:
        return self.current + self.longest_seen > self.max_duration
