"""From features to hypotheses: the encoder, the search that the settings name, and the JSON values of a hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.decode.beam import beam_search
from residualformer.decode.encode import EncodedFrames, encode
from residualformer.decode.greedy import greedy_search
from residualformer.hypothesis import Hypothesis
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer


class Recognized(NamedTuple):
    """The n-best list of an utterance, best first, and of recurrent encoders a digit per encoder frame, "0" = slow."""

    nbest: list[Hypothesis]
    branches: str | None


def recognize(
    model: Transducer, settings: DecodeConfig, features: Sequence[np.ndarray], streaming: bool = False
) -> list[Recognized]:
    """Recognize a batch of utterances, each (T, F) float32, not normalized; on the device of the model."""
    return search_encoded(model, settings, encode_batch(model, features, streaming))


def encode_batch(model: Transducer, features: Sequence[np.ndarray], streaming: bool = False) -> EncodedFrames:
    """Pad a batch of features, each (T, F) float32, move it to the device of the model and encode it."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(x) for x in features], device=device)
    padded = pad_sequence([torch.from_numpy(x) for x in features], batch_first=True)  # (N, T, F)
    return encode(model, padded.to(device), lengths, streaming)


def search_encoded(model: Transducer, settings: DecodeConfig, encoded: EncodedFrames) -> list[Recognized]:
    """Search a batch of encoded utterances."""
    nbests = search(model, encoded.frames, encoded.lengths, settings)
    if encoded.branches is None:
        return [Recognized(nbest, None) for nbest in nbests]
    rows = zip(encoded.branches.tolist(), encoded.lengths.tolist(), strict=True)
    branches = ["".join(map(str, row[:length])) for row, length in rows]
    return [Recognized(nbest, taken) for nbest, taken in zip(nbests, branches, strict=True)]


def search(model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[list[Hypothesis]]:
    """Return the n-best lists, best first, of the encoder's output `encoded` (N, T, D) with `lengths` (N,) int64."""
    if settings.kind == "greedy":
        return [[hypothesis] for hypothesis in greedy_search(model, encoded, lengths, settings)]
    return beam_search(model, encoded, lengths, settings)


def hypothesis_record(bundle: Bundle, hypothesis: Hypothesis) -> dict[str, Any]:
    """Return the text of a hypothesis, its log-probability, its tokens as text and their times in seconds."""
    return {
        "hyp": bundle.tokenizer.decode(hypothesis.tokens),
        "score": round(hypothesis.score, 4),
        "tokens": [bundle.tokenizer.pieces[token] for token in hypothesis.tokens],
        "times": times_s(hypothesis, bundle.model.encoder.stride),
    }


def times_s(hypothesis: Hypothesis, stride: int) -> list[float]:
    """Return the start of the encoder frame that wrote each token, in seconds from the start of the utterance.

    Args:
        stride: feature frames per encoder frame.
    """
    return [round(frame * stride * FRAME_SHIFT_S, 2) for frame in hypothesis.frames]
