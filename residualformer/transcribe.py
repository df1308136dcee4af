"""`residualformer transcribe`: audio files in, text out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from residualformer.data.audio import read_audio
from residualformer.data.features import compute_fbank
from residualformer.decode.corpus import decode_features, entry
from residualformer.decode.greedy import GreedySearch
from residualformer.decode.hypotheses import Hypothesis
from residualformer.decode.search import decode_settings, encode_chunks
from residualformer.errors import UserError
from residualformer.schema import DecodeConfig
from residualformer.train.checkpoint import Bundle, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio of any rate and number of channels")
    parser.add_argument("--model", type=Path, required=True, metavar="RUN_OR_MODEL", help="a run folder or model.pt")
    parser.add_argument("--json", action="store_true", help="one JSON object per file: text, tokens, times (s), score")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--beam", type=int, metavar="N", help="beam search with N hypotheses (default: as in the model)")
    kind.add_argument("--greedy", action="store_true", help="greedy search")
    parser.add_argument(
        "--streaming", action="store_true", help="chunk by chunk, as live speech would be decoded; greedy search"
    )


def run(args: argparse.Namespace) -> None:
    """Transcribe `args.files` in their order, one line each as soon as it is known.

    A file that cannot be read is named on stderr, and the exit status is 1. UserError when none can be read, and for
    options that contradict each other.
    """
    if args.streaming and args.beam is not None:
        raise UserError(f"--beam {args.beam} does not go with --streaming, which searches greedily: leave one out.")
    bundle = load_model(args.model)
    overrides = ["decode.kind=greedy"] if args.greedy or args.streaming else []
    if args.beam is not None:
        overrides = ["decode.kind=beam", f"decode.beam={args.beam}"]
    settings = decode_settings(bundle.config, overrides)
    failed = 0
    for path in args.files:
        try:
            result = transcribe(bundle, path, settings, args.streaming)
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        if args.json:
            print(json.dumps({"file": str(path), **result}, ensure_ascii=False), flush=True)
        else:
            print(f"{path}\t{result['text']}", flush=True)
    if failed == len(args.files):
        raise UserError(f"none of the {failed} files could be transcribed (reasons above).")
    if failed:
        sys.exit(1)


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
    search = GreedySearch(model, 1, settings.max_symbols, settings.blank_penalty)
    for encoded, lengths, _ in encode_chunks(model, features[None], torch.tensor([len(features)])):
        search.feed(encoded, lengths)
    return search.results()[0]
