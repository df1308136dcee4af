"""Decoding a set of cuts with stored features into records, the lines of `hyp.jsonl`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse.cut import Cut
from tqdm import tqdm

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.data.features import read_feature_config
from residualformer.data.validate import read_cuts
from residualformer.decode.hypotheses import Hypothesis
from residualformer.decode.likelihood import reference_nats
from residualformer.decode.search import EncodedFrames, encode, search, times_s
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle


@dataclass
class Outcome:
    """A record per utterance, and id, reference and reason of each that could not be read.

    `loss_s`: seconds that the loss of the references took.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    loss_s: float = 0.0


class Decoded(NamedTuple):
    """What is found of an utterance. `branches`: of recurrent encoders, a digit per encoder frame, "0" = slow."""

    nbest: list[Hypothesis]
    branches: str | None


def read_cuts_with_features(path: Path, features: FeatureConfig) -> list[Cut]:
    """Cuts whose features exist and are computed as `features` says; UserError otherwise."""
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


def decode_cuts(bundle: Bundle, settings: DecodeConfig, cuts: list, streaming: bool = False) -> Outcome:
    """Decode all cuts, in batches of like duration, the longest first; the records are in the order of the cuts.

    A record also tells `ref_tokens` of the reference and `ref_nats`, its transducer loss, None where that was too large
    (see `reference_nats`). An utterance whose features cannot be read is skipped, named and noted. UserError when a cut
    has no reference, or when no features can be read.
    """
    target = bundle.config.tokens.target
    references = {cut.id: reference(cut, target) for cut in cuts}
    outcome = Outcome()
    with tqdm(total=len(cuts), desc="decode", unit="utt") as progress:
        for batch in batches(cuts, settings.max_batch_s):
            readable = list(_load(batch, bundle.config.features.num_mel_bins, references, outcome))
            if readable:
                _records(bundle, settings, readable, references, streaming, outcome)
            progress.update(len(batch))
    if not outcome.records:
        raise UserError(f"none of the {len(cuts)} utterances has features that can be read: run stage 2 again.")
    place = {cut.id: i for i, cut in enumerate(cuts)}
    outcome.records.sort(key=lambda line: place[line["id"]])
    return outcome


def reference(cut, target: str) -> str:
    """What the model should write: the cut's `text`, or its `translation`."""
    supervision = cut.supervisions[0]
    text = supervision.text if target == "text" else (supervision.custom or {}).get(target)
    if text is None:
        raise UserError(f"cut {cut.id} has no {target}, which tokens.target of the model asks for: run stage 1 again.")
    return text


def batches(cuts: Iterable, max_batch_s: float) -> list[list]:
    """Groups of cuts of like duration, each at most `max_batch_s` with the padding, or a single cut."""
    groups: list[list] = []
    for cut in sorted(cuts, key=lambda cut: -cut.duration):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].duration <= max_batch_s:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    return groups


def decode_features(
    model, settings: DecodeConfig, features: list[np.ndarray], streaming: bool = False
) -> list[Decoded]:
    """A batch of utterances, each (T, F) float32, un-normalised."""
    return _search(model, settings, _encode(model, features, streaming))


def _encode(model, features: list[np.ndarray], streaming: bool) -> EncodedFrames:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(x) for x in features], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in features], batch_first=True)  # (N, T, F)
    return encode(model, padded.to(device), lengths, streaming)


@torch.no_grad()
def _search(model, settings: DecodeConfig, encoded: EncodedFrames) -> list[Decoded]:
    nbests = search(model, encoded.frames, encoded.lengths, settings)
    if encoded.branches is None:
        return [Decoded(nbest, None) for nbest in nbests]
    rows = zip(encoded.branches.tolist(), encoded.lengths.tolist(), strict=True)
    taken = ["".join(map(str, row[:length])) for row, length in rows]
    return [Decoded(nbest, branches) for nbest, branches in zip(nbests, taken, strict=True)]


def _records(
    bundle: Bundle, settings: DecodeConfig, batch: list, references: dict[str, str], streaming: bool, outcome: Outcome
) -> None:
    """Add the records of a batch of (cut, features (T, F)) to `outcome`."""
    encoded = _encode(bundle.model, [features for _, features in batch], streaming)
    found = _search(bundle.model, settings, encoded)
    started = time.monotonic()
    labels = [bundle.tokenizer.encode(references[cut.id]) for cut, _ in batch]
    nats = reference_nats(bundle.model, encoded.frames, encoded.lengths, labels)
    outcome.loss_s += time.monotonic() - started
    for (cut, _), (nbest, branches), said, loss in zip(batch, found, labels, nats, strict=True):
        entries = [entry(bundle, hypothesis) for hypothesis in nbest]
        line = {"id": cut.id, "ref": references[cut.id], **entries[0], "duration": cut.duration}
        line |= {"ref_tokens": len(said), "ref_nats": None if loss is None else round(loss, 4)}
        line |= {} if branches is None else {"branches": branches}
        outcome.records.append(line | {"nbest": entries})


def entry(bundle: Bundle, hypothesis: Hypothesis) -> dict[str, Any]:
    """Text, log-probability, tokens as text and their times in seconds."""
    return {
        "hyp": bundle.tokenizer.decode(hypothesis.tokens),
        "score": round(hypothesis.score, 4),
        "tokens": [bundle.tokenizer.pieces[token] for token in hypothesis.tokens],
        "times": times_s(hypothesis, bundle.model.encoder.stride),
    }


def _load(batch: list, num_mel_bins: int, references: dict[str, str], outcome: Outcome):
    """Yield (cut, features (T, F)) of the readable cuts; note the others."""
    for cut in batch:
        try:
            features = cut.load_features()
            if features.ndim != 2 or features.shape[1] != num_mel_bins or len(features) == 0:
                raise ValueError(f"shape {features.shape} instead of (frames, {num_mel_bins})")
            if not np.isfinite(features).all():
                raise ValueError("values that are not finite")
            yield cut, features
        except Exception as error:  # the storage back-ends raise errors of many libraries
            reason = f"{type(error).__name__}: {error}"
            outcome.skipped.append({"id": cut.id, "ref": references[cut.id], "reason": reason})
            tqdm.write(f"decode: skipped {cut.id}, its features cannot be read ({reason})", file=sys.stderr)
