"""One audio file through a trained model, without Lhotse: what `residualformer transcribe` does with a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from residualformer.config.schema import DecodeConfig
from residualformer.data.audio import read_audio
from residualformer.data.fbank import compute_fbank
from residualformer.decode.encode import encode_chunks
from residualformer.decode.greedy import GreedySearch
from residualformer.decode.recognize import hypothesis_record, recognize
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer


def transcribe(bundle: Bundle, path: Path, settings: DecodeConfig, streaming: bool = False) -> dict[str, Any]:
    """Return text, score (log-probability), tokens, times (s) and duration (s) of one audio file.

    Raises:
        UserError: the file holds no usable audio.
    """
    rate = bundle.config.features.sample_rate_hz
    samples = read_audio(path, rate)
    features = compute_fbank(samples, bundle.config.features)  # (T, F)
    if len(features) == 0:
        raise UserError(f"{path} is too short ({len(samples)} samples at {rate} Hz): give at least 10 ms of audio.")
    if streaming:
        hypothesis = recognize_stream(bundle.model, settings, features)
    else:
        hypothesis = recognize(bundle.model, settings, [features])[0].nbest[0]
    record = hypothesis_record(bundle, hypothesis)
    return {"text": record.pop("hyp"), **record, "duration": round(len(samples) / rate, 3)}


def recognize_stream(model: Transducer, settings: DecodeConfig, features: np.ndarray) -> Hypothesis:
    """Search features (T, F) greedily, chunk after chunk: nothing waits for the end of the utterance."""
    search = GreedySearch(model, 1, settings)
    device = next(model.parameters()).device
    batch, lengths = torch.from_numpy(features)[None].to(device), torch.tensor([len(features)], device=device)
    for encoded, valid, _ in encode_chunks(model, batch, lengths):
        search.feed(encoded, valid)
    return search.results()[0]
