"""Batches of a data set: shuffled and bucketed for training, ordered by length for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from residualformer.config.schema import DataConfig, FeatureConfig, WaveformConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.data.collate import Batch, collate, pause_frames, quiet_frames
from residualformer.data.loading import loaded, prefetch
from residualformer.data.plan import Item, Plan
from residualformer.data.shar import Shard, find_shards
from residualformer.data.splits import mixed_source
from residualformer.data.summary import describe
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.utterance import Utterance, read_utterances
from residualformer.data.waveform import Waveforms
from residualformer.errors import UserError

CUDA_WORKERS = 4  # processes that prepare batches for a GPU, where the configuration leaves it open


class Position(NamedTuple):
    """A place in the endless sequence of training batches."""

    epoch: int = 0
    update: int = 0  # updates of that epoch that are made


@dataclass(frozen=True)
class Update:
    """The batches of one update that a rank computes, and where the next update starts."""

    batches: list[tuple[int, Batch]]  # each with its number within the update, from 0
    end: Position
    bad: dict[str, str] = field(default_factory=dict)  # utterances that were left out, with reasons
    asked: int = 0  # utterances, those that were left out included
    unread: dict[str, str] = field(default_factory=dict)  # files of noise that cannot be read, with reasons

    def pin_memory(self) -> Update:
        """Return the update with its batches in pinned memory."""
        return replace(self, batches=[(number, batch.pin_memory()) for number, batch in self.batches])


class TrainBatches:
    """Shuffled batches of utterances of similar duration; `seed` and epoch determine them.

    Args:
        cuts: manifest of stage 2, or a folder of Lhotse Shar; used if `data.shar` names no folders.
        data: which utterances to use, how much a batch holds, and how batches are prepared.
        target: see `target_text`.
        features: the definition of the features, which `data.waveform` needs.

    Raises:
        UserError: no utterance is usable, a speed of `data` does not occur, or what `data.waveform` needs is not there.
    """

    def __init__(
        self,
        cuts: Path,
        data: DataConfig,
        tokenizer: Tokenizer,
        target: str = "text",
        seed: int = 1,
        features: FeatureConfig | None = None,
    ) -> None:
        self.data = data
        if missing := [folder for folder in data.shar if not Path(folder).is_dir()]:
            raise UserError(f"data.shar names {', '.join(missing)}, but there is no such folder: mend data.shar.")
        self.sources = [mixed_source(Path(folder)) for folder in data.shar] or [cuts]
        self.plan = Plan(self.sources, data, tokenizer, target, seed)
        max_padding = round(data.pad_start_ms / 1000 / FRAME_SHIFT_S)
        waveforms = None
        if data.waveform != WaveformConfig():
            waveforms = Waveforms(data.waveform, features or FeatureConfig())
            for source in self.sources:
                waveforms.check(next(read_utterances(find_shards(source)[0], target, with_lines=True)))
        self.loader = UpdateLoader(tokenizer, self.plan.separator, max_padding, seed, waveforms)

    @property
    def skipped(self) -> dict[str, str]:
        """The reasons why utterances are left out, by id; those that were found so far."""
        return self.plan.skipped

    def describe(self) -> str:
        """Return a sentence on the training set that counts each utterance once, however many speeds it has."""
        mixed = zip(self.data.weights, self.sources)
        parts = [f"{weight:g} times {describe([source])}" for weight, source in mixed] or [describe(self.sources)]
        share = "" if self.data.share == 1 else f"a share of {self.data.share:g} of "
        return f"{share}{', '.join(parts)}, at speeds {self.data.speeds}"

    def updates(self, start: Position, per_update: int, rank: int = 0, world: int = 1) -> Iterator[Update]:
        """Yield updates of `per_update` batches each from `start` on, epoch after epoch, without end.

        Of the batches of an update, whose numbers start at 0, each of the `world` ranks gets those with
        number % world == rank. One update of an epoch may hold fewer. To go on within an epoch, its batches
        before `start` are planned again, without reading their features.

        The updates are prepared ahead by `data.num_workers` processes or a thread, and do not depend on how many.
        """
        workers = self.data.num_workers
        if workers is None:
            workers = CUDA_WORKERS if torch.cuda.is_available() else 0
        return loaded(self.plans(start, per_update, rank, world), self.loader, workers)

    def plans(self, start: Position, per_update: int, rank: int = 0, world: int = 1) -> Iterator[UpdatePlan]:
        """Yield what each of `updates` holds, without loading it."""
        epoch, skip = start
        while True:
            updates = pairwise(chain(self.plan.epoch(epoch, per_update), [None]))
            for index, (batches, following) in enumerate(updates):
                if index >= skip and batches is not None:
                    mine = [(number, batches[number]) for number in range(rank, len(batches), world)]
                    end = Position(epoch + 1) if following is None else Position(epoch, index + 1)
                    yield UpdatePlan(Position(epoch, index), mine, end)
            epoch, skip = epoch + 1, 0


class EvalBatches:
    """All utterances of a manifest by duration; a batch holds `max_batch_s` with its padding, or one utterance.

    No utterance is left out, whatever its text, because a score must count all. Can be iterated repeatedly.
    """

    def __init__(self, cuts_path: Path, max_batch_s: float, tokenizer: Tokenizer, target: str = "text") -> None:
        self._tokenizer = tokenizer
        utterances = sorted(read_utterances(Shard(cuts_path), target), key=lambda u: (u.duration, u.id))
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
            [self._tokenizer.encode(u.text) for u in utterances],
            [u.text for u in utterances],
            [u.transcript for u in utterances],
        )


class UpdatePlan(NamedTuple):
    position: Position
    batches: list[tuple[int, list[Item]]]  # each with its number within the update
    end: Position


@dataclass(frozen=True)
class UpdateLoader:
    """The function that loads the batches of an update; worker processes get a copy.

    Attributes:
        separator: between the texts of joined utterances.
        max_padding: frames of silence before an utterance, at most.
        waveforms: what computes features of degraded audio, in place of those on disk.
    """

    tokenizer: Tokenizer
    separator: str
    max_padding: int
    seed: int
    waveforms: Waveforms | None = None

    def __call__(self, plan: UpdatePlan) -> Update:
        update = Update([], plan.end, asked=sum(len(items) for _, items in plan.batches))
        for number, items in plan.batches:
            if batch := self.batch(items, plan.position, number, update):
                update.batches.append((number, batch))
        return update

    def batch(self, items: Sequence[Item], position: Position, number: int, update: Update) -> Batch | None:
        """Load a batch of `update`, which gets what cannot be read; None if that is all.

        Its random choices depend on the position of the update and its number therein alone.
        """
        rng = np.random.default_rng([self.seed, *position, number])
        arrays: list[np.ndarray] = []
        parts: list[Sequence[Utterance]] = []
        for item in items:
            try:
                arrays.append(self._features(item, rng, update.unread))
                parts.append(item.parts)
            except UserError as error:
                update.bad["+".join(utterance.id for utterance in item.parts)] = str(error)
        if not parts:
            return None
        texts = [self.separator.join(utterance.text for utterance in each) for each in parts]
        return collate(
            ["+".join(utterance.id for utterance in each) for each in parts],
            arrays,
            [self.tokenizer.encode(text) for text in texts],
            texts,
            [" ".join(utterance.transcript for utterance in each) for each in parts],
        )

    def _features(self, item: Item, rng: np.random.Generator, unread: dict[str, str]) -> np.ndarray:
        """Load the features (T, F) of an item with its pauses, and up to `max_padding` frames of silence before it."""
        if self.waveforms:
            scene = self.waveforms.drawn(rng.spawn(1)[0])  # which leaves the numbers of `rng` as they are
            arrays = [self.waveforms.features(utterance, scene, unread) for utterance in item.parts]
        else:
            arrays = [utterance.load() for utterance in item.parts]
        joined = [quiet_frames(arrays[0], int(rng.integers(self.max_padding + 1)))]
        for array, seconds in zip(arrays, (0.0, *item.pauses) if item.pauses else [0.0] * len(arrays), strict=True):
            if seconds:
                joined.append(pause_frames(joined[-1], round(seconds / FRAME_SHIFT_S), rng))
            joined.append(array)
        return np.concatenate(joined)
