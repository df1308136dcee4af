"""One audio file through a trained model: what `residualformer transcribe` does with a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from residualformer.config.schema import DecodeConfig
from residualformer.data.audio import read_audio
from residualformer.data.features import compute_fbank
from residualformer.decode.corpus import decode_features, entry
from residualformer.decode.greedy import GreedySearch
from residualformer.decode.hypotheses import Hypothesis
from residualformer.decode.search import encode_chunks
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle


def transcribe(bundle: Bundle, path: Path, settings: DecodeConfig, streaming: bool = False) -> dict[str, Any]:
    """text, score (log-probability), tokens, times (s) and duration (s) of one audio file.

    Raises UserError when the file holds no usable audio.
    """
    rate = bundle.config.features.sample_rate_hz
    samples = read_audio(path, rate)
    features = compute_fbank(samples, bundle.config.features)  # (T, F)
    if len(features) == 0:
        raise UserError(f"{path} is too short ({len(samples)} samples at {rate} Hz): give at least 10 ms of audio.")
    if streaming:
        hypothesis = decode_stream(bundle.model, settings, torch.from_numpy(features))
    else:
        hypothesis = decode_features(bundle.model, settings, [features])[0].nbest[0]
    found = entry(bundle, hypothesis)
    return {"text": found.pop("hyp"), **found, "duration": round(len(samples) / rate, 3)}


def decode_stream(model, settings: DecodeConfig, features: torch.Tensor) -> Hypothesis:
    """Greedy search of features (T, F), chunk after chunk: nothing waits for the end of the utterance."""
    search = GreedySearch(model, 1, settings.max_symbols, settings.blank_penalty, settings.token_reward)
    for encoded, lengths, _ in encode_chunks(model, features[None], torch.tensor([len(features)])):
        search.feed(encoded, lengths)
    return search.results()[0]
