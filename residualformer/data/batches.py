"""Batches of a data set: shuffled and bucketed for training, ordered by length for evaluation."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse import MonoCut
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.dataset.sampling.base import TimeConstraint

from residualformer.config.schema import DataConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.collate import Batch, collate
from residualformer.data.prefetch import prefetch
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import Utterance, read_utterances
from residualformer.errors import UserError

log = logging.getLogger(__name__)

QUIET_FRAMES = 10  # length of the stretch that is repeated as an utterance's silence

Item = tuple[Utterance, ...]  # one utterance, or two that are joined


class Position(NamedTuple):
    """A place in the endless sequence of training batches."""

    epoch: int = 0
    batch: int = 0  # batches of that epoch that are used up


@dataclass(frozen=True)
class Update:
    """The batches of one update that a rank computes, and where the next update starts."""

    batches: list[tuple[int, Batch]]  # each with its number within the update, from 0
    end: Position


class TrainBatches:
    """Shuffled batches of utterances of similar duration; `seed` and epoch determine them.

    Args:
        cuts_path: manifest of stage 2.
        data: which utterances to use, and how much a batch holds.
        target: see `target_text`.

    Raises:
        UserError: no utterance is usable, or the manifest lacks a speed of `data`.
    """

    def __init__(
        self, cuts_path: Path | str, data: DataConfig, tokenizer: Tokenizer, target: str = "text", seed: int = 1
    ) -> None:
        self.data = data
        self.seed = seed
        self.utterances: list[Utterance] = []  # the usable ones, at the speeds of `data`
        self.skipped: dict[str, str] = {}  # id -> reason: its duration, or no known token; also logged
        self._tokenizer = tokenizer
        found = read_utterances(cuts_path, tokenizer, target)
        speeds = {utterance.speed for utterance in found}
        if not speeds.issuperset(data.speeds):
            raise UserError(
                f"data.speeds is {data.speeds}, but {cuts_path} holds speeds {sorted(speeds)}: run stage 2 again."
            )
        for utterance in found:
            if utterance.speed not in data.speeds:
                continue
            if reason := self._reason_to_skip(utterance):
                self.skipped[utterance.id] = reason
            else:
                self.utterances.append(utterance)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
        if not self.utterances:
            raise UserError(f"{cuts_path}: none of its utterances can be trained on ({reasons[:500]}).")
        if self.skipped:
            log.warning("%d of %d utterances left out of training: %s", len(self.skipped), len(found), reasons)
        # Joined utterances are separated by a space, except in scripts without spaces, such as Chinese.
        self._separator = " " if any(" " in utterance.text for utterance in self.utterances) else ""

    def describe(self) -> str:
        """Return a sentence on the training set that counts each utterance once, however many speeds it has."""
        originals = {utterance.source: utterance for utterance in self.utterances}.values()
        parts = []
        for origin in sorted({utterance.origin for utterance in originals}):
            hours = sum(u.duration * u.speed for u in originals if u.origin == origin) / 3600
            count = sum(u.origin == origin for u in originals)
            parts.append(f"{count} {origin or 'corpus'} utterances ({hours:.2f} h)")
        return f"{' + '.join(parts)}, at speeds {self.data.speeds}"

    def epoch(self, n: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `n` except the first `skip`; a thread prepares them ahead."""
        return prefetch(self.load_epoch(n, skip))

    def load_epoch(self, n: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `n` except the first `skip`, each loaded when it is asked for."""
        for index, items in enumerate(self.plan(n)):
            if index >= skip:  # a generator per batch, so that a batch does not depend on how many were skipped
                yield self._load_batch(items, np.random.default_rng([self.seed, n, index]))

    def updates(self, start: Position, per_update: int, rank: int = 0, world: int = 1) -> Iterator[Update]:
        """Yield updates of `per_update` batches each from `start` on, epoch after epoch, without end.

        Of the batches of an update, whose numbers start at 0, each of the `world` ranks gets those with
        number % world == rank. An update may hold batches of two epochs. A thread prepares batches ahead.
        """
        return prefetch(self._load_updates(start, per_update, rank, world))

    def _load_updates(self, start: Position, per_update: int, rank: int, world: int) -> Iterator[Update]:
        walk = self._walk(start)
        while True:
            loaded = []
            for number in range(per_update):
                (epoch, index), items, end = next(walk)
                if number % world == rank:
                    rng = np.random.default_rng([self.seed, epoch, index])
                    loaded.append((number, self._load_batch(items, rng)))
            yield Update(loaded, end)

    def _walk(self, start: Position) -> Iterator[tuple[Position, list[Item], Position]]:
        """Yield each batch's position, its contents and the position after it."""
        epoch, skip = start
        while True:
            plan = self.plan(epoch)
            for index in range(skip, len(plan)):
                end = Position(epoch, index + 1) if index + 1 < len(plan) else Position(epoch + 1)
                yield Position(epoch, index), plan[index], end
            epoch, skip = epoch + 1, 0

    def plan(self, n: int) -> list[list[Item]]:
        """Return the contents of the batches of epoch `n`, without loading features."""
        rng = np.random.default_rng([self.seed, n])
        items = self._join(self._choose(rng), rng)
        stand_ins = [MonoCut(str(i), 0, sum(u.duration for u in item), 0) for i, item in enumerate(items)]
        # The sampler cannot estimate the bounds of a single bucket, nor of more buckets than there are items.
        count = min(self.data.num_buckets, len(items))
        buckets: dict[str, Any] = {"num_buckets": count} if count > 1 else {"duration_bins": []}
        sampler = DynamicBucketingSampler(
            stand_ins,
            constraint=_AudioSeconds(self.data.max_batch_s),
            shuffle=True,
            seed=int(rng.integers(1 << 30)),
            world_size=1,
            rank=0,
            **buckets,
        )
        batches = [[items[int(cut.id)] for cut in batch] for batch in sampler]
        return [batches[i] for i in rng.permutation(len(batches))]  # the sampler visits buckets in a fixed order

    def _reason_to_skip(self, utterance: Utterance) -> str:
        if not utterance.text:
            return "no text to learn"
        if set(utterance.tokens) <= {self._tokenizer.unk_id, self._tokenizer.blank_id}:
            return f"no known token in '{utterance.text}'"
        if not self.data.min_utterance_s <= utterance.duration <= self.data.max_utterance_s:
            bounds = f"{self.data.min_utterance_s} ... {self.data.max_utterance_s} s"
            return f"lasts {utterance.duration:.2f} s, outside {bounds} (data.min_utterance_s, max_utterance_s)"
        return ""

    def _choose(self, rng: np.random.Generator) -> list[Utterance]:
        """Return the utterances of an epoch, shuffled: all speed copies, or one of each utterance at random."""
        chosen = self.utterances
        if self.data.speed_choice == "random":
            copies: defaultdict[str, list[Utterance]] = defaultdict(list)
            for utterance in self.utterances:
                copies[utterance.source].append(utterance)
            chosen = [group[rng.integers(len(group))] for group in copies.values()]
        return [chosen[i] for i in rng.permutation(len(chosen))]

    def _join(self, utterances: list[Utterance], rng: np.random.Generator) -> list[Item]:
        """Join neighbours with probability `concat_probability`, unless they are too long together."""
        items: list[Item] = []
        rest = iter(utterances)
        for first in rest:
            second = next(rest, None) if rng.random() < self.data.concat_probability else None
            if second is None:
                items.append((first,))
            elif first.duration + second.duration <= self.data.max_utterance_s:
                items.append((first, second))
            else:
                items += [(first,), (second,)]
        return items

    def _load_batch(self, items: Sequence[Item], rng: np.random.Generator) -> Batch:
        """Load the features of `items`, with up to `pad_start_ms` of silence before each."""
        arrays, tokens, texts = [], [], []
        max_padding = round(self.data.pad_start_ms / 1000 / FRAME_SHIFT_S)  # frames
        for item in items:
            parts = [utterance.load() for utterance in item]
            silence = quiet_frames(parts[0], int(rng.integers(max_padding + 1)))
            arrays.append(np.concatenate([silence, *parts]))
            texts.append(self._separator.join(utterance.text for utterance in item))
            tokens.append(item[0].tokens if len(item) == 1 else self._tokenizer.encode(texts[-1]))
        transcripts = [" ".join(utterance.transcript for utterance in item) for item in items]
        return collate(["+".join(u.id for u in item) for item in items], arrays, tokens, texts, transcripts)


class EvalBatches:
    """All utterances of a manifest by duration; a batch holds `max_batch_s` with its padding, or one utterance.

    No utterance is left out, whatever its text, because a score must count all. Can be iterated repeatedly.
    """

    def __init__(self, cuts_path: Path | str, max_batch_s: float, tokenizer: Tokenizer, target: str = "text") -> None:
        utterances = sorted(read_utterances(cuts_path, tokenizer, target), key=lambda u: (u.duration, u.id))
        self.plan: list[list[Utterance]] = [[]]  # the utterances of each batch
        for utterance in utterances:
            if self.plan[-1] and (len(self.plan[-1]) + 1) * utterance.duration > max_batch_s:
                self.plan.append([])
            self.plan[-1].append(utterance)

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def seconds(self) -> list[float]:
        """Seconds of speech in each batch."""
        return [sum(utterance.duration for utterance in utterances) for utterances in self.plan]

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.part(0, 1))

    def part(self, rank: int, world: int) -> Iterator[tuple[int, Batch]]:
        """Yield those batches, each with its number, that one of `world` ranks measures: number % world == rank."""
        mine = range(rank, len(self.plan), world)
        return zip(mine, prefetch(self._load(self.plan[number]) for number in mine))

    def _load(self, utterances: Sequence[Utterance]) -> Batch:
        return collate(
            [u.id for u in utterances],
            [u.load() for u in utterances],
            [u.tokens for u in utterances],
            [u.text for u in utterances],
            [u.transcript for u in utterances],
        )


def quiet_frames(features: np.ndarray, count: int) -> np.ndarray:
    """Return (count, F) frames of silence: the quietest stretch of `features` (T, F), repeated.

    The background is thus the utterance's own, where zeros or noise would mark the padding.
    """
    width = min(QUIET_FRAMES, len(features))
    loudness = np.cumsum(np.append(0.0, features.mean(axis=1, dtype=np.float64)))
    start = int(np.argmin(loudness[width:] - loudness[:-width]))
    stretch = features[start : start + width]
    return stretch[np.arange(count) % width]


@dataclass
class _AudioSeconds(TimeConstraint):
    """A limit on the seconds of audio in a batch; Lhotse's own counts every utterance as long as the longest."""

    def exceeded(self) -> bool:
        return self.current > self.max_duration

    def close_to_exceeding(self) -> bool:
        return self.current + self.longest_seen > self.max_duration
