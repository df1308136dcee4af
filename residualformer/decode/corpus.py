"""Decoding a set of cuts with stored features into records, the lines of `hyp.jsonl`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lhotse.cut import Cut
from tqdm import tqdm

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.context.scorer import Context, joint
from residualformer.data.arrays import load_features
from residualformer.data.features import read_feature_config
from residualformer.data.manifest import read_cuts
from residualformer.decode.fusion import language_model
from residualformer.decode.grouping import group_by_length
from residualformer.decode.likelihood import reference_nats
from residualformer.decode.recognize import NO_MATCH, describe, encode_batch, hypothesis_record, judged, search_encoded
from residualformer.decode.words import has_words
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle

Plan = Mapping[str, np.ndarray]  # the branches (steps,) int64 of frames, or depths of chunks, by utterance


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
    context: Context | None = None,
) -> Outcome:
    """Decode all cuts in batches of similar duration, the longest first; see `gather`.

    Args:
        context: what adds to the scores of labels, beside the language model of `settings`; for each utterance afresh.
    """
    groups = batches(cuts, settings.max_batch_s)
    outcomes = (decode_batch(bundle, settings, group, streaming, context) for group in groups)
    return gather(cuts, bundle.config.tokens.target, outcomes)


def gather(
    cuts: Sequence[Cut], target: str, outcomes: Iterable[Outcome], source: Literal["features", "audio"] = "features"
) -> Outcome:
    """Return the results of all batches of `cuts` as one, in the order of the cuts.

    Utterances whose `source` cannot be read are skipped and named on stderr.

    Raises:
        UserError: a cut has no reference, or no utterance can be read.
    """
    check_references(cuts, target)
    whole = Outcome()
    with tqdm(total=len(cuts), desc="decode", unit="utt") as progress:
        for part in outcomes:
            for each in part.skipped:
                sentence = f"decode: skipped {each['id']}, its {source} cannot be read ({each['reason']})"
                tqdm.write(sentence, file=sys.stderr)
            whole.add(part)
            progress.update(len(part.records) + len(part.skipped))
    if not whole.records:
        stage = 2 if source == "features" else 1
        raise UserError(f"none of the {len(cuts)} utterances has {source} that can be read: run stage {stage} again.")
    order = {cut.id: i for i, cut in enumerate(cuts)}
    whole.records.sort(key=lambda record: order[record["id"]])
    return whole


def check_references(cuts: Iterable[Cut], target: str) -> None:
    """Raise UserError for a cut without a reference."""
    for cut in cuts:
        reference(cut, target)


def reference(cut: Cut, target: str) -> str:
    """Return the text that the model should write: the cut's `text`, or its `translation`."""
    text = find_reference(cut, target)
    if text is None:
        raise UserError(f"cut {cut.id} has no {target}, which tokens.target of the model asks for: run stage 1 again.")
    return text


def find_reference(cut: Cut, target: str) -> str | None:
    """Return what `reference` does; None where the cut has none."""
    if not cut.supervisions:
        return None
    supervision = cut.supervisions[0]
    return supervision.text if target == "text" else (supervision.custom or {}).get(target)


def batches(cuts: Iterable[Cut], max_batch_s: float) -> list[list[Cut]]:
    """Group cuts of similar duration, as `group_by_length` does."""
    return group_by_length(cuts, lambda cut: cut.duration, max_batch_s)


def decode_batch(
    bundle: Bundle,
    settings: DecodeConfig,
    batch: Sequence[Cut],
    streaming: bool = False,
    context: Context | None = None,
    plan: Plan | None = None,
) -> Outcome:
    """Decode a batch of cuts, their frames through the branches of `plan`, if there is one.

    A record also holds `ref_tokens`, the number of tokens of the reference, and `ref_nats`, its transducer loss (see
    `reference_nats`; None where it is too large to compute), and the words of `Timed`, unless they are a translation.
    """
    started = time.monotonic()
    references = {cut.id: reference(cut, bundle.config.tokens.target) for cut in batch}
    outcome = Outcome()
    readable = list(load_readable(batch, bundle.config.features.num_mel_bins, references, outcome))
    if not readable:
        return outcome
    given = None if plan is None else [plan[cut.id] for cut, _ in readable]
    encoded = encode_batch(bundle.model, [features for _, features in readable], streaming, given)
    whole = joint([context, language_model(bundle, settings)])
    scorers = [whole.scorer() for _ in readable] if whole else ()
    found = search_encoded(bundle.model, settings, encoded, scorers, align=has_words(bundle))
    found = judged(bundle, settings, encoded, found, context)
    labels = [bundle.tokenizer.encode(references[cut.id]) for cut, _ in readable]
    before_loss = time.monotonic()
    losses = reference_nats(bundle.model, encoded.frames, encoded.lengths, labels)
    loss_s = time.monotonic() - before_loss
    for (cut, _), recognized, tokens, nats in zip(readable, found, labels, losses, strict=True):
        branches = recognized.branches
        entries = [hypothesis_record(bundle, hypothesis) for hypothesis in recognized.nbest[: settings.nbest]]
        best = entries[0] if entries else NO_MATCH
        record = {"id": cut.id, "ref": references[cut.id], **best, "duration": cut.duration}
        record |= {"ref_tokens": len(tokens), "ref_nats": None if nats is None else round(nats, 4)}
        record |= {} if branches is None else {"branches": branches}
        record |= describe(bundle, settings, recognized, cut.duration).to_dict() if has_words(bundle) else {}
        record |= recognized.verdict.to_dict() if recognized.verdict else {}
        outcome.records.append(record | {"nbest": entries})
    outcome.search_s = time.monotonic() - started - loss_s
    return outcome


def load_readable(
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
