"""Whether a folder does what the model does: PyTorch, our runtime and sherpa-onnx, step by step, on the same audio.

All three search greedily and go by sherpa-onnx's rule of steps: whole windows only, then the end is dropped; so every
utterance gets `tail_padding_ms` of silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from residualformer.config.schema import DecodeConfig
from residualformer.data.fbank import compute_fbank
from residualformer.decode.greedy import GreedySearch
from residualformer.errors import UserError
from residualformer.export.contracts import Contract
from residualformer.export.folder import folder_ids, token_list
from residualformer.model.checkpoint import Bundle
from residualformer.optional import is_installed, optional
from residualformer.runtime.greedy import GreedySearch as RuntimeGreedy
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import ExportedModel
from residualformer.runtime.search import Search
from residualformer.runtime.settings import TOKENS_FILE
from residualformer.runtime.tokens import SPACE

PIECE_S = 0.1  # sherpa-onnx is fed as a microphone would


class Utterance(NamedTuple):
    """Samples (S,) float32 in [-1, 1] at the model's rate."""

    id: str
    samples: np.ndarray


@dataclass
class Report:
    """What the check found; `differing` counts utterances, by precision and program."""

    utterances: int = 0
    tokens: int = 0
    differing: dict[str, dict[str, int]] = field(default_factory=dict)


def check_folder(
    folder: Path, settings: dict[str, Any], bundle: Bundle, contract: Contract, audio: Iterable[Utterance]
) -> Report:
    """Compare the token sequences of all programs on `audio`, for fp32 and, where it was written, int8.

    sherpa-onnx takes part if it is installed. Raises UserError at the first utterance on which an fp32 file writes
    other tokens than PyTorch; those of int8 are counted.
    """
    pieces = token_list(bundle.tokenizer, contract)
    programs = {kind: _programs(folder, settings, contract, kind) for kind in settings["files"]}
    report = Report(differing={kind: dict.fromkeys(each, 0) for kind, each in programs.items()})
    for utterance in audio:
        padded = with_tail(utterance.samples, settings)
        features = compute_fbank(padded, bundle.config.features)
        expected = folder_ids(torch_tokens(bundle, features, contract), contract, len(pieces))
        report.utterances, report.tokens = report.utterances + 1, report.tokens + len(expected)
        for kind, each in programs.items():
            for name, recognise in each.items():
                found = recognise(padded, features)
                report.differing[kind][name] += found != expected
                if kind == "fp32" and found != expected:
                    raise UserError(_difference(utterance.id, name, pieces, found, expected))
    return report


def with_tail(samples: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """The samples and the silence behind them."""
    rate = settings["features"]["sample_rate_hz"]
    return np.pad(samples, (0, settings["tail_padding_ms"] * rate // 1000)).astype(np.float32)


def steps(num_frames: int, window: int, shift: int) -> range:
    """The first frame of every step that sherpa-onnx runs: it wants one frame more than the window."""
    return range(0, max(num_frames - window, 0), shift)


@torch.no_grad()
def torch_tokens(bundle: Bundle, features: np.ndarray, contract: Contract) -> list[int]:
    """Token ids of training that PyTorch, streaming, finds in features (T, F)."""
    model, settings = bundle.model, bundle.config.decode
    encoder, state = model.encoder, model.encoder.init_state(1)
    search = GreedySearch(model, 1, replace(settings, max_symbols=contract.symbols_per_frame))
    x, full = torch.from_numpy(features)[None], torch.tensor([encoder.window])
    for start in steps(len(features), encoder.window, encoder.shift):
        frames, state = encoder.step(x[:, start : start + encoder.window], full, state)
        search.feed(frames, torch.tensor([frames.size(1)]))
    return search.results()[0].tokens


def runtime_tokens(model: ExportedModel, search: Search, features: np.ndarray) -> list[int]:
    """Token ids of the folder that the runtime finds in features (T, F), in the steps of sherpa-onnx."""
    encoder, written = model.encoder_state(), search.start()
    for start in steps(len(features), model.window, model.shift):
        window = features[None, start : start + model.window]
        frames, [encoder] = model.encode(window, np.array([model.window]), [encoder])
        search.advance([written], list(frames))
    return written.nbest()[0].tokens


def sherpa_recognizer(folder: Path, settings: dict[str, Any], kind: str = "fp32", **options: Any) -> Any:
    """The folder in sherpa-onnx, greedy and on one thread unless `options` say otherwise."""
    files = {part: str(folder / file) for part, file in settings["files"][kind].items()}
    defaults = {"num_threads": 1, "blank_penalty": sherpa_blank_penalty(settings)}
    if settings["features"]["num_mel_bins"] != 80:  # its own default; nemo reads it from the encoder
        defaults["feature_dim"] = settings["features"]["num_mel_bins"]
    recognizer = optional("sherpa_onnx").OnlineRecognizer
    return recognizer.from_transducer(tokens=str(folder / TOKENS_FILE), **files, **(defaults | options))


def sherpa_blank_penalty(settings: dict[str, Any]) -> float:
    """For the folder's greedy search, to which a reward for labels is a penalty for the blank; it has no other."""
    decode = DecodeConfig(**settings["decode"])
    return decode.blank_penalty + decode.token_reward


def sherpa_symbols(recognizer: Any, samples: np.ndarray, rate: int) -> list[str]:
    """What sherpa-onnx writes of samples (S,), fed in pieces; its symbols, in which a space stands for `▁`."""
    stream = recognizer.create_stream()
    size = int(PIECE_S * rate)
    for start in range(0, len(samples), size):
        stream.accept_waveform(rate, samples[start : start + size])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return recognizer.tokens(stream)


def _programs(
    folder: Path, settings: dict[str, Any], contract: Contract, kind: str
) -> dict[str, Callable[[np.ndarray, np.ndarray], list[int]]]:
    """Functions of (samples, features) by name."""
    model = load_exported(folder, int8=kind == "int8")
    decode = model.decode
    search = RuntimeGreedy(model, model.blank, contract.symbols_per_frame, decode.blank_penalty, decode.token_reward)
    programs = {"onnxruntime": lambda _, features: runtime_tokens(model, search, features)}
    if is_installed("sherpa_onnx"):
        recognizer, rate = sherpa_recognizer(folder, settings, kind), model.features.sample_rate_hz
        ids = {piece.replace(SPACE, " "): index for index, piece in enumerate(model.pieces)}
        programs["sherpa-onnx"] = lambda samples, _: [ids[s] for s in sherpa_symbols(recognizer, samples, rate)]
    return programs


def _difference(utterance: str, program: str, pieces: list[str], found: list[int], expected: list[int]) -> str:
    place = len(os.path.commonprefix([found, expected]))
    theirs, ours = (f"'{pieces[ids[place]]}'" if place < len(ids) else "the end" for ids in (found, expected))
    return (
        f"utterance {utterance}: {program} writes {theirs} as token {place + 1} where PyTorch writes {ours}; "
        "nothing was exported; this is a fault of the export, please report it."
    )
