"""From features to hypotheses: the encoder, the search that the settings name, and the JSON values of a hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.context.scorer import Context, Scorer
from residualformer.context.verdict import Heard, Verdict
from residualformer.decode.beam import beam_search
from residualformer.decode.encode import EncodedFrames, encode
from residualformer.decode.greedy import GreedySearch
from residualformer.decode.words import align_hypothesis, frame_s
from residualformer.hypothesis import Hypothesis
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer
from residualformer.words.alignment import Alignment
from residualformer.words.words import NO_WORDS, Timed, timed_words


class Recognized(NamedTuple):
    """The n-best list of an utterance, best first, and a digit per frame or chunk that had a choice, "0" = slow.

    The list is empty where scorers let no hypothesis end, or the context refuses the best one; `verdict` is what a
    context that judges says. `alignment` is that of the best, if it was asked for.
    """

    nbest: list[Hypothesis]
    branches: str | None
    alignment: Alignment | None = None
    verdict: Verdict | None = None


def recognize(
    model: Transducer,
    settings: DecodeConfig,
    features: Sequence[np.ndarray],
    streaming: bool = False,
    scorers: Sequence[Scorer] = (),
    align: bool = False,
) -> list[Recognized]:
    """Recognize a batch of utterances, each (T, F) float32, not normalized; on the device of the model.

    `scorers` are those of the utterances, or none. With `align`, see `search_encoded`.
    """
    return search_encoded(model, settings, encode_batch(model, features, streaming), scorers, align)


def encode_batch(
    model: Transducer,
    features: Sequence[np.ndarray],
    streaming: bool = False,
    branches: Sequence[np.ndarray] | None = None,
) -> EncodedFrames:
    """Pad a batch of features, each (T, F) float32, move it to the device of the model and encode it.

    With `branches`, each (steps,) int64, frames or chunks go through these; see `encode`.
    """
    padded, lengths = padded_batch(model, features)
    given = None if branches is None else pad_sequence([torch.from_numpy(taken) for taken in branches], True)
    return encode(model, padded, lengths, streaming, None if given is None else given.to(padded.device))


def padded_batch(model: Transducer, features: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return features, each (T, F), as (N, T, F) with their lengths (N,), on the device of the model."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(x) for x in features], device=device)
    return pad_sequence([torch.from_numpy(x) for x in features], batch_first=True).to(device), lengths


def search_encoded(
    model: Transducer,
    settings: DecodeConfig,
    encoded: EncodedFrames,
    scorers: Sequence[Scorer] = (),
    align: bool = False,
) -> list[Recognized]:
    """Search a batch of encoded utterances, with their scorers or without any.

    With `align` the n-best lists hold all hypotheses of the beam, which confidences are made of, and the best one is
    aligned.
    """
    nbests = search(model, encoded.frames, encoded.lengths, all_hypotheses(settings) if align else settings, scorers)
    lengths, found = encoded.lengths.tolist(), []
    for n, (nbest, length) in enumerate(zip(nbests, lengths, strict=True)):
        alignment = align_hypothesis(model, encoded.frames[n, :length], nbest[0], settings) if align and nbest else None
        steps = -(-length // model.encoder.frames_per_step)
        branches = None if encoded.branches is None else "".join(map(str, encoded.branches[n, :steps].tolist()))
        found.append(Recognized(nbest, branches, alignment))
    return found


def all_hypotheses(settings: DecodeConfig) -> DecodeConfig:
    """Return the settings of a search that returns all hypotheses of its beam."""
    return replace(settings, nbest=max(settings.beam, settings.nbest))


def search(
    model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig, scorers: Sequence[Scorer] = ()
) -> list[list[Hypothesis]]:
    """Return the n-best lists, best first, of the encoder's output `encoded` (N, T, D) with `lengths` (N,) int64."""
    if settings.kind == "beam":
        return beam_search(model, encoded, lengths, settings, scorers)
    greedy = GreedySearch(model, encoded.shape[0], settings, scorers)
    greedy.feed(encoded, lengths)
    return greedy.ended()


def judged(
    bundle: Bundle, settings: DecodeConfig, encoded: EncodedFrames, found: list[Recognized], context: Context | None
) -> list[Recognized]:
    """Return what was found in each of the utterances `encoded`, with the verdict of the context, if it judges."""
    if context is None or not context.judges:
        return found
    free = search(bundle.model, encoded.frames, encoded.lengths, replace(settings, kind="greedy"))
    results = []
    for each, (heard_freely, *_) in zip(found, free, strict=True):
        best = each.nbest[0] if each.nbest else None
        text = bundle.tokenizer.decode(best.tokens) if best else ""
        verdict = context.judge(Heard(text, best.score if best else None, heard_freely, frame_s(bundle.model)))
        kept = each if verdict is None or verdict.match else each._replace(nbest=[], alignment=None)
        results.append(kept._replace(verdict=verdict))
    return results


NO_MATCH: dict[str, Any] = {"hyp": "", "score": None, "tokens": [], "times": []}  # the record of an empty n-best list


def describe(bundle: Bundle, settings: DecodeConfig, recognized: Recognized, duration_s: float) -> Timed:
    """Return the words of an utterance that was recognized with `align`."""
    if recognized.alignment is None:
        return NO_WORDS
    return timed_words(
        recognized.nbest,
        recognized.alignment,
        bundle.tokenizer.pieces,
        bundle.calibration,
        settings.kind,
        settings.token_reward,
        frame_s(bundle.model),
        0.0,
        duration_s,
    )


def hypothesis_record(bundle: Bundle, hypothesis: Hypothesis) -> dict[str, Any]:
    """Return the text of a hypothesis, its log-probability, its tokens as text and their times in seconds.

    `context`, what scorers added, is there where they added something.
    """
    context = {"context": round(hypothesis.context, 4)} if hypothesis.context else {}
    return {
        "hyp": bundle.tokenizer.decode(hypothesis.tokens),
        "score": round(hypothesis.score, 4),
        **context,
        "tokens": [bundle.tokenizer.pieces[token] for token in hypothesis.tokens],
        "times": times_s(hypothesis, bundle.model.encoder.stride),
    }


def times_s(hypothesis: Hypothesis, stride: int) -> list[float]:
    """Return the start of the encoder frame that wrote each token, in seconds from the start of the utterance.

    Args:
        stride: feature frames per encoder frame.
    """
    return [round(frame * stride * FRAME_SHIFT_S, 2) for frame in hypothesis.frames]
