"""Decoding a set of cuts with stored features into records, the lines of `hyp.jsonl`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut
from tqdm import tqdm

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.data.arrays import load_features
from residualformer.data.features import read_feature_config
from residualformer.data.manifest import read_cuts
from residualformer.decode.likelihood import reference_nats
from residualformer.decode.recognize import encode_batch, hypothesis_record, search_encoded
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle


@dataclass
class Outcome:
    """The results of decoding a set, or a batch of it."""

    records: list[dict[str, Any]] = field(default_factory=list)  # one for each utterance
    skipped: list[dict[str, str]] = field(default_factory=list)  # id, reference and reason of each unreadable one
    search_s: float = 0.0  # seconds that a process spent, or several together, but for the loss of the references

    def add(self, other: Outcome) -> None:
        """Append the results of another batch."""
        self.records += other.records
        self.skipped += other.skipped
        self.search_s += other.search_s


def read_cuts_with_features(path: Path, features: FeatureConfig) -> list[Cut]:
    """Read cuts and check that they have features, computed as `features` says; UserError otherwise."""
    cuts = list(read_cuts(path, stage=2))
    bare = [cut.id for cut in cuts if not cut.has_features]
    if bare:
        raise UserError(f"{path}: {len(bare)} cuts have no features, the first is {bare[0]}: run stage 2 first.")
    found, expected = asdict(read_feature_config(path.parent)), asdict(features)
    if found != expected:
        raise UserError(
            f"{path.parent}/features.json says {found}, but the model was trained on {expected}: "
            "compute the features with the model's options (stage 2)."
        )
    return cuts


def decode_cuts(
    bundle: Bundle,
    settings: DecodeConfig,
    cuts: Sequence[Cut],
    streaming: bool = False,
    decode_all: Callable[[list[list[Cut]]], Iterable[Outcome]] | None = None,
) -> Outcome:
    """Decode all cuts in batches of similar duration, the longest first; records are in the order of the cuts.

    Utterances whose features cannot be read are skipped and named on stderr.

    Args:
        decode_all: decodes batches elsewhere, in other processes; None: here, by `decode_batch`.

    Raises:
        UserError: a cut has no reference, or no features can be read.
    """
    check_references(cuts, bundle.config.tokens.target)
    outcome = Outcome()
    groups = batches(cuts, settings.max_batch_s)
    outcomes = decode_all(groups) if decode_all else (decode_batch(bundle, settings, g, streaming) for g in groups)
    with tqdm(total=len(cuts), desc="decode", unit="utt") as progress:
        for part in outcomes:
            for each in part.skipped:
                sentence = f"decode: skipped {each['id']}, its features cannot be read ({each['reason']})"
                tqdm.write(sentence, file=sys.stderr)
            outcome.add(part)
            progress.update(len(part.records) + len(part.skipped))
    if not outcome.records:
        raise UserError(f"none of the {len(cuts)} utterances has features that can be read: run stage 2 again.")
    order = {cut.id: i for i, cut in enumerate(cuts)}
    outcome.records.sort(key=lambda record: order[record["id"]])
    return outcome


def check_references(cuts: Iterable[Cut], target: str) -> None:
    """Raise UserError for a cut without a reference."""
    for cut in cuts:
        reference(cut, target)


def reference(cut: Cut, target: str) -> str:
    """Return the text that the model should write: the cut's `text`, or its `translation`."""
    supervision = cut.supervisions[0]
    text = supervision.text if target == "text" else (supervision.custom or {}).get(target)
    if text is None:
        raise UserError(f"cut {cut.id} has no {target}, which tokens.target of the model asks for: run stage 1 again.")
    return text


def batches(cuts: Iterable[Cut], max_batch_s: float) -> list[list[Cut]]:
    """Group cuts of similar duration; each group lasts at most `max_batch_s` with its padding, or is a single cut."""
    groups: list[list[Cut]] = []
    for cut in sorted(cuts, key=lambda cut: -cut.duration):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].duration <= max_batch_s:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    return groups


def decode_batch(bundle: Bundle, settings: DecodeConfig, batch: Sequence[Cut], streaming: bool = False) -> Outcome:
    """Decode a batch of cuts.

    A record also holds `ref_tokens`, the number of tokens of the reference, and `ref_nats`, its transducer loss (see
    `reference_nats`; None where it is too large to compute).
    """
    started = time.monotonic()
    references = {cut.id: reference(cut, bundle.config.tokens.target) for cut in batch}
    outcome = Outcome()
    readable = list(_load(batch, bundle.config.features.num_mel_bins, references, outcome))
    if not readable:
        return outcome
    encoded = encode_batch(bundle.model, [features for _, features in readable], streaming)
    found = search_encoded(bundle.model, settings, encoded)
    labels = [bundle.tokenizer.encode(references[cut.id]) for cut, _ in readable]
    before_loss = time.monotonic()
    losses = reference_nats(bundle.model, encoded.frames, encoded.lengths, labels)
    loss_s = time.monotonic() - before_loss
    for (cut, _), (nbest, branches), tokens, nats in zip(readable, found, labels, losses, strict=True):
        entries = [hypothesis_record(bundle, hypothesis) for hypothesis in nbest]
        record = {"id": cut.id, "ref": references[cut.id], **entries[0], "duration": cut.duration}
        record |= {"ref_tokens": len(tokens), "ref_nats": None if nats is None else round(nats, 4)}
        record |= {} if branches is None else {"branches": branches}
        outcome.records.append(record | {"nbest": entries})
    outcome.search_s = time.monotonic() - started - loss_s
    return outcome


def _load(
    batch: Iterable[Cut], num_mel_bins: int, references: dict[str, str], outcome: Outcome
) -> Iterator[tuple[Cut, np.ndarray]]:
    """Yield the readable cuts with their features (T, F); add the others to `outcome.skipped`."""
    for cut in batch:
        try:
            features = load_features(cut)
            if features.shape[1] != num_mel_bins or len(features) == 0:
                raise ValueError(f"shape {features.shape} instead of (frames, {num_mel_bins})")
            if not np.isfinite(features).all():
                raise ValueError("values that are not finite")
            yield cut, features
        except (OSError, ValueError) as error:
            reason = str(error)
            outcome.skipped.append({"id": cut.id, "ref": references[cut.id], "reason": reason})
