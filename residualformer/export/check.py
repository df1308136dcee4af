"""Check of an exported folder: PyTorch, our runtime and sherpa-onnx must recognize the same audio alike.

All three search greedily and run the steps that sherpa-onnx runs, whole windows only; so every utterance is followed by
`tail_padding_ms` of silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from residualformer.config.schema import DecodeConfig
from residualformer.constants import SPACE
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
from residualformer.runtime.settings import TOKENS_FILE, ModelSettings, Precision

PIECE_S = 0.1  # sherpa-onnx is fed as a microphone would feed it


class CheckAudio(NamedTuple):
    """An utterance: samples (S,) float32 in [-1, 1] at the model's rate, and what the model should write, if known."""

    id: str
    samples: np.ndarray
    reference: str | None = None


@dataclass
class Report:
    """The outcome of the check; `differing` counts utterances, by precision and program."""

    utterances: int = 0
    tokens: int = 0
    differing: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """How much was compared, in words."""
        return f"{self.utterances} utterance{'s' * (self.utterances != 1)}, {self.tokens} tokens"


def check_folder(
    folder: Path, settings: ModelSettings, bundle: Bundle, contract: Contract, audio: Iterable[CheckAudio]
) -> Report:
    """Compare the token sequences of all programs on `audio`, for fp32 and, if it was written, int8.

    sherpa-onnx takes part if it is installed. Raises UserError at the first utterance that the fp32 files recognize
    unlike PyTorch; for int8 such utterances are counted.
    """
    pieces = token_list(bundle.tokenizer, contract)
    programs = {kind: _programs(folder, settings, contract, kind) for kind in settings.files}
    report = Report(differing={kind: dict.fromkeys(each, 0) for kind, each in programs.items()})
    for utterance in audio:
        padded = with_tail(utterance.samples, settings)
        features = compute_fbank(padded, bundle.config.features)
        expected = folder_ids(torch_tokens(bundle, features, contract), contract, len(pieces))
        report.utterances, report.tokens = report.utterances + 1, report.tokens + len(expected)
        for kind, each in programs.items():
            for name, recognize in each.items():
                found = recognize(padded, features)
                report.differing[kind][name] += found != expected
                if kind == "fp32" and found != expected:
                    raise UserError(_difference(utterance.id, name, pieces, found, expected))
    return report


def with_tail(samples: np.ndarray, settings: ModelSettings) -> np.ndarray:
    """Append the silence of `tail_padding_ms` to samples (S,)."""
    rate = settings.features.sample_rate_hz
    return np.pad(samples, (0, settings.tail_padding_ms * rate // 1000)).astype(np.float32)


def steps(num_frames: int, window: int, shift: int) -> range:
    """Return the first frame of every step that sherpa-onnx runs: it waits for one frame more than the window."""
    return range(0, max(num_frames - window, 0), shift)


@torch.no_grad()
def torch_tokens(bundle: Bundle, features: np.ndarray, contract: Contract) -> list[int]:
    """Recognize features (T, F) in PyTorch, streaming; return token ids of training."""
    model, settings = bundle.model, bundle.config.decode
    encoder, state = model.encoder, model.encoder.init_state(1)
    search = GreedySearch(model, 1, replace(settings, max_symbols=contract.symbols_per_frame))
    x, full = torch.from_numpy(features)[None], torch.tensor([encoder.window])
    for start in steps(len(features), encoder.window, encoder.shift):
        frames, state = encoder.step(x[:, start : start + encoder.window], full, state)
        search.feed(frames, torch.tensor([frames.size(1)]))
    return search.results()[0].tokens


def runtime_tokens(model: ExportedModel, search: Search[Any], features: np.ndarray) -> list[int]:
    """Recognize features (T, F) with the runtime, in the steps of sherpa-onnx; return token ids of the folder."""
    encoder, written = model.encoder_state(), search.start()
    for start in steps(len(features), model.window, model.shift):
        window = features[None, start : start + model.window]
        frames, [encoder] = model.encode(window, np.array([model.window]), [encoder])
        search.advance([written], list(frames))
    return written.nbest()[0].tokens


def sherpa_recognizer(folder: Path, settings: ModelSettings, precision: Precision = "fp32", **options: Any) -> Any:
    """Load the folder in sherpa-onnx, greedy and on one thread unless `options` say otherwise."""
    files = {part: str(folder / file) for part, file in asdict(settings.files[precision]).items()}
    defaults: dict[str, Any] = {"num_threads": 1, "blank_penalty": sherpa_blank_penalty(settings.decode)}
    if settings.features.num_mel_bins != 80:  # its own default; nemo reads it from the encoder
        defaults["feature_dim"] = settings.features.num_mel_bins
    recognizer = optional("sherpa_onnx").OnlineRecognizer
    return recognizer.from_transducer(tokens=str(folder / TOKENS_FILE), **files, **(defaults | options))


def sherpa_blank_penalty(decode: DecodeConfig) -> float:
    """Return the blank penalty for sherpa-onnx's greedy search, which has no reward for labels: their sum."""
    return decode.blank_penalty + decode.token_reward


def sherpa_symbols(recognizer: Any, samples: np.ndarray, rate: int) -> list[str]:
    """Recognize samples (S,), fed in pieces; return sherpa-onnx's symbols, in which a space stands for `▁`."""
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


Recognize = Callable[[np.ndarray, np.ndarray], list[int]]  # of samples (S,) and their features (T, F)


def _programs(folder: Path, settings: ModelSettings, contract: Contract, precision: Precision) -> dict[str, Recognize]:
    """Return a function that recognizes with the folder, for each program by name."""
    model = load_exported(folder, int8=precision == "int8")
    search = RuntimeGreedy(model, model.blank, replace(model.decode, max_symbols=contract.symbols_per_frame))

    def by_runtime(samples: np.ndarray, features: np.ndarray) -> list[int]:
        return runtime_tokens(model, search, features)

    programs: dict[str, Recognize] = {"onnxruntime": by_runtime}
    if is_installed("sherpa_onnx") and model.features.level == "as recorded":  # which is all that it computes
        recognizer = sherpa_recognizer(folder, settings, precision)
        ids = {piece.replace(SPACE, " "): index for index, piece in enumerate(model.pieces)}

        def by_sherpa(samples: np.ndarray, features: np.ndarray) -> list[int]:
            return [ids[symbol] for symbol in sherpa_symbols(recognizer, samples, model.features.sample_rate_hz)]

        programs["sherpa-onnx"] = by_sherpa
    return programs


def _difference(utterance: str, program: str, pieces: list[str], found: list[int], expected: list[int]) -> str:
    place = len(os.path.commonprefix([found, expected]))
    theirs, ours = (f"'{pieces[ids[place]]}'" if place < len(ids) else "the end" for ids in (found, expected))
    return (
        f"utterance {utterance}: {program} writes {theirs} as token {place + 1} where PyTorch writes {ours}; "
        "nothing was exported; this is a fault of the export, please report it."
    )
