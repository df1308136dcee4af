"""Batches of features and tokens: shuffled and bucketed for training, ordered by length for evaluation.

Letters: N utterances, T frames (padded to a multiple of 16, so that shapes repeat), F mel bins, S tokens.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from lhotse import Features, MonoCut
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.dataset.sampling.base import TimeConstraint
from torch import Tensor

from residualformer.config.schema import DataConfig
from residualformer.data.features import FRAME_SHIFT_S
from residualformer.data.tokenizer import Tokenizer
from residualformer.data.validate import read_cuts
from residualformer.errors import UserError

log = logging.getLogger(__name__)

FRAMES_MULTIPLE = 16
QUIET_FRAMES = 10  # length of the stretch that stands for an utterance's silence


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one length; the features are not normalised (the model does that)."""

    ids: list[str]
    features: Tensor  # (N, T, F) float32, 0 beyond feature_lens
    feature_lens: Tensor  # (N,) int64
    tokens: Tensor  # (N, S) int64, 0 beyond token_lens
    token_lens: Tensor  # (N,) int64
    texts: list[str]
    transcripts: list[str] = field(default_factory=list)  # what is said, where `texts` are translations

    def to(self, device: torch.device | str) -> Batch:
        names = ("features", "feature_lens", "tokens", "token_lens")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


@dataclass(frozen=True)
class Utterance:
    """One cut, read from disk only when its batch is built."""

    id: str
    source: str  # the utterance that this is a speed copy of
    speed: float
    duration: float  # seconds
    text: str
    tokens: list[int]
    transcript: str
    features: Features
    origin: str  # '' for the corpus's own, else what else it is, such as 'synthetic'

    def load(self) -> np.ndarray:
        """(T, F), in the precision they are stored in."""
        try:
            return self.features.load()
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"the features of {self.id} cannot be read ({error}): run stage 2 again, with --overwrite."
            ) from error


def target_text(cut: Cut, target: str) -> str:
    """What is to be written for `cut`: its transcript (`text`) or its `translation`; '' if it has none."""
    supervision = cut.supervisions[0] if cut.supervisions else None
    if supervision is None:
        return ""
    text = supervision.text if target == "text" else (supervision.custom or {}).get("translation")
    return " ".join((text or "").split())


def read_utterances(cuts_path: Path | str, tokenizer: Tokenizer, target: str) -> list[Utterance]:
    """All cuts of a stage 2 manifest, in its order."""
    if target not in ("text", "translation"):
        raise UserError(f"tokens.target is '{target}'; allowed are text, translation.")
    tokens: dict[str, list[int]] = {}
    utterances = []
    for cut in read_cuts(cuts_path, stage=2):
        if not cut.has_features:
            raise UserError(f"{cuts_path}: cut {cut.id} has no features: give the cuts that stage 2 wrote.")
        text = target_text(cut, target)
        if text not in tokens:
            tokens[text] = tokenizer.encode(text)
        custom = cut.custom or {}
        source, speed = custom.get("utterance", cut.id), custom.get("speed", 1.0)
        origin = (cut.supervisions[0].custom or {}).get("origin", "") if cut.supervisions else ""
        said = text if target == "text" else target_text(cut, "text")
        read = Utterance(cut.id, source, speed, cut.duration, text, tokens[text], said, cut.features, origin)
        utterances.append(read)
    return utterances


class TrainBatches:
    """Shuffled batches of utterances of similar duration, the same for the same `seed` and epoch.

    Left out, logged and kept in `skipped` (id -> reason): utterances whose duration the config refuses or whose
    text has no known token. UserError when nothing is left or a speed of the config has no features.
    """

    def __init__(
        self, cuts_path: Path | str, data: DataConfig, tokenizer: Tokenizer, target: str = "text", seed: int = 1
    ):
        self.data = data
        self.seed = seed
        self.skipped: dict[str, str] = {}
        self.utterances: list[Utterance] = []
        read = read_utterances(cuts_path, tokenizer, target)
        computed = {utterance.speed for utterance in read}
        if not computed.issuperset(data.speeds):
            raise UserError(
                f"data.speeds is {data.speeds}, but {cuts_path} holds speeds {sorted(computed)}: run stage 2 again."
            )
        for utterance in read:
            if utterance.speed not in data.speeds:
                continue
            reason = self._objection(utterance, tokenizer)
            if reason:
                self.skipped[utterance.id] = reason
            else:
                self.utterances.append(utterance)
        told = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
        if not self.utterances:
            raise UserError(f"{cuts_path}: none of its utterances can be trained on ({told[:500]}).")
        if self.skipped:
            log.warning("%d of %d utterances left out of training: %s", len(self.skipped), len(read), told)
        # Scripts that put spaces between words get one between joined utterances, Chinese does not.
        self._separator = " " if any(" " in utterance.text for utterance in self.utterances) else ""
        self._tokenizer = tokenizer

    def describe(self) -> str:
        """What the training set holds, each utterance counted once whatever its speeds."""
        originals = {utterance.source: utterance for utterance in self.utterances}.values()
        parts = []
        for origin in sorted({utterance.origin for utterance in originals}):
            hours = sum(u.duration * u.speed for u in originals if u.origin == origin) / 3600
            count = sum(u.origin == origin for u in originals)
            parts.append(f"{count} {origin or 'corpus'} utterances ({hours:.2f} h)")
        return f"{' + '.join(parts)}, at speeds {self.data.speeds}"

    def _objection(self, utterance: Utterance, tokenizer: Tokenizer) -> str:
        if not utterance.text:
            return "no text to learn"
        if set(utterance.tokens) <= {tokenizer.unk_id, tokenizer.blank_id}:
            return f"no known token in '{utterance.text}'"
        if not self.data.min_utterance_s <= utterance.duration <= self.data.max_utterance_s:
            bounds = f"{self.data.min_utterance_s} ... {self.data.max_utterance_s} s"
            return f"lasts {utterance.duration:.2f} s, outside {bounds} (data.min_utterance_s, max_utterance_s)"
        return ""

    def plan(self, n: int) -> list[list[tuple[Utterance, ...]]]:
        """The batches of epoch `n`; an item is one utterance, or two that are to be joined."""
        rng = np.random.default_rng([self.seed, n])
        items = self._join(self._pick(rng), rng)
        stand_ins = [MonoCut(str(i), 0, sum(u.duration for u in item), 0) for i, item in enumerate(items)]
        sampler = DynamicBucketingSampler(
            stand_ins,
            constraint=_AudioSeconds(self.data.max_batch_s),
            shuffle=True,
            seed=int(rng.integers(1 << 30)),
            world_size=1,
            rank=0,
            **_buckets(self.data.num_buckets, len(items)),
        )
        batches = [[items[int(cut.id)] for cut in batch] for batch in sampler]
        return [batches[i] for i in rng.permutation(len(batches))]  # the sampler visits buckets in a fixed order

    def epoch(self, n: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of epoch `n` without the first `skip`, made ahead in a thread."""
        return _ahead(self._make(n, skip))

    def _make(self, n: int, skip: int) -> Iterator[Batch]:
        for index, items in enumerate(self.plan(n)):
            if index >= skip:  # a generator per batch: what comes after does not depend on what was skipped
                yield self._batch(items, np.random.default_rng([self.seed, n, index]))

    def _pick(self, rng: np.random.Generator) -> list[Utterance]:
        """This epoch's utterances, shuffled: every speed copy, or one at random of each."""
        chosen = self.utterances
        if self.data.speed_choice == "random":
            copies = defaultdict(list)
            for utterance in self.utterances:
                copies[utterance.source].append(utterance)
            chosen = [group[rng.integers(len(group))] for group in copies.values()]
        return [chosen[i] for i in rng.permutation(len(chosen))]

    def _join(self, utterances: list[Utterance], rng: np.random.Generator) -> list[tuple[Utterance, ...]]:
        """Walk through the utterances; by chance one takes the next along, if both are not too long together."""
        items: list[tuple[Utterance, ...]] = []
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

    def _batch(self, items: Sequence[tuple[Utterance, ...]], rng: np.random.Generator) -> Batch:
        arrays, tokens, texts = [], [], []
        most_padding = round(self.data.pad_start_ms / 1000 / FRAME_SHIFT_S)
        for item in items:
            parts = [utterance.load() for utterance in item]
            silence = quiet_frames(parts[0], int(rng.integers(most_padding + 1)))
            arrays.append(np.concatenate([silence, *parts]))
            texts.append(self._separator.join(utterance.text for utterance in item))
            tokens.append(item[0].tokens if len(item) == 1 else self._tokenizer.encode(texts[-1]))
        said = [" ".join(utterance.transcript for utterance in item) for item in items]
        return collate(["+".join(u.id for u in item) for item in items], arrays, tokens, texts, said)


class EvalBatches:
    """Every cut of a manifest, by duration; a batch holds at most `max_batch_s` with its padding, or one utterance.

    Nothing is left out, whatever its text: a score must count every utterance. Can be iterated again and again.
    """

    def __init__(self, cuts_path: Path | str, max_batch_s: float, tokenizer: Tokenizer, target: str = "text"):
        utterances = sorted(read_utterances(cuts_path, tokenizer, target), key=lambda u: (u.duration, u.id))
        self.plan: list[list[Utterance]] = [[]]
        for utterance in utterances:
            if self.plan[-1] and (len(self.plan[-1]) + 1) * utterance.duration > max_batch_s:
                self.plan.append([])
            self.plan[-1].append(utterance)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        return _ahead(
            collate(
                [u.id for u in us],
                [u.load() for u in us],
                [u.tokens for u in us],
                [u.text for u in us],
                [u.transcript for u in us],
            )
            for us in self.plan
        )


def collate(
    ids: list[str],
    arrays: Sequence[np.ndarray],
    tokens: Sequence[Sequence[int]],
    texts: list[str],
    transcripts: list[str],
) -> Batch:
    """Pad features (T_i, F) and token lists into one Batch."""
    longest = max(len(array) for array in arrays)
    num_frames = -(-longest // FRAMES_MULTIPLE) * FRAMES_MULTIPLE
    features = np.zeros((len(arrays), num_frames, arrays[0].shape[1]), dtype=np.float32)
    padded = np.zeros((len(tokens), max(len(t) for t in tokens)), dtype=np.int64)
    for row, (array, ids_of_row) in enumerate(zip(arrays, tokens)):
        features[row, : len(array)] = array
        padded[row, : len(ids_of_row)] = ids_of_row
    return Batch(
        ids=ids,
        features=torch.from_numpy(features),
        feature_lens=torch.tensor([len(array) for array in arrays]),
        tokens=torch.from_numpy(padded),
        token_lens=torch.tensor([len(t) for t in tokens]),
        texts=texts,
        transcripts=transcripts,
    )


def quiet_frames(features: np.ndarray, count: int) -> np.ndarray:
    """(count, F) frames of silence like the utterance's own: its quietest stretch of `features` (T, F), repeated."""
    width = min(QUIET_FRAMES, len(features))
    loudness = np.cumsum(np.append(0.0, features.mean(axis=1, dtype=np.float64)))
    start = int(np.argmin(loudness[width:] - loudness[:-width]))
    stretch = features[start : start + width]
    return stretch[np.arange(count) % width]


@dataclass
class _AudioSeconds(TimeConstraint):
    """Seconds of audio in a batch, where Lhotse counts every utterance as long as the longest."""

    def exceeded(self) -> bool:
        return self.current > self.max_duration

    def close_to_exceeding(self) -> bool:
        return self.current + self.longest_seen > self.max_duration


def _buckets(wanted: int, num_items: int) -> dict:
    """The sampler's bucket arguments; it cannot estimate bounds for a single bucket, nor for more than it has items."""
    count = min(wanted, num_items)
    return {"num_buckets": count} if count > 1 else {"duration_bins": []}


def _ahead(batches: Iterable[Batch], depth: int = 4) -> Iterator[Batch]:
    """Make up to `depth` batches ahead in a thread, which ends with the iteration, finished or abandoned."""
    made: queue.Queue = queue.Queue(depth)
    abandoned = threading.Event()

    def put(value: tuple[str, object]) -> bool:
        while not abandoned.is_set():
            try:
                made.put(value, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(("batch", batch)):
                    return
            put(("end", None))
        except BaseException as error:  # raised again where the batch was wanted
            put(("error", error))

    threading.Thread(target=work, daemon=True, name="batches").start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        abandoned.set()
