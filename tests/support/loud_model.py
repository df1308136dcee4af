"""An exported folder whose model is known in every number.

A feature frame is loud below 2 kHz (label `a`), loud above (label `b`), or not (blank). A label is written once: the
predictor forbids the last one until another has been written.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

RATE, BINS, STRIDE, CHUNK, AHEAD = 16000, 80, 4, 2, 1
WINDOW, SHIFT = STRIDE * (CHUNK + AHEAD), STRIDE * CHUNK
PIECES = ["\u2581a", "\u2581b", "<blk>"]
V, BLANK = 3, 2
LOUD = -4.0  # log power of the loudest bin of a half: a tone is above, its leakage below, silence is at -15.9
LOW_BINS = 30  # of 80 Slaney bins up to 8 kHz, those up to about 2 kHz
A, B = 500.0, 5000.0  # Hz, tones that are heard as `a` and `b`


class Encoder(nn.Module):
    """Logits before the predictor: 20 (log power - LOUD) of both halves, 0 for the blank; the look-ahead is idle.

    The states all count steps; where they differ, as mixed or lost states would, the labels come out wrong.
    """

    def forward(self, audio_signal: Tensor, length: Tensor, channel: Tensor, time: Tensor, count: Tensor):
        real = torch.arange(SHIFT) < length[:, None, None]
        now = nn.functional.avg_pool1d(torch.where(real, audio_signal[:, :, :SHIFT], -16.0), STRIDE)  # (N, F, C)
        halves = torch.stack([now[:, :LOW_BINS].amax(1), now[:, LOW_BINS:].amax(1)], dim=1)
        logits = nn.functional.pad(20 * (halves - LOUD), (0, 0, 0, 1))
        wrong = channel.mean((1, 2, 3)) - time.mean((1, 2, 3)) + count / CHUNK - time.mean((1, 2, 3))
        return logits + 100 * wrong[:, None, None], length.clone(), channel + 1, time + 1, count + CHUNK


class Decoder(nn.Module):
    """-10,000 for the last label, and a state that counts labels."""

    def forward(self, targets: Tensor, target_length: Tensor, h: Tensor, c: Tensor):
        last = nn.functional.one_hot(targets[:, 0].long(), V).float()
        return -1e4 * last.unsqueeze(2) * torch.tensor([1.0, 1.0, 0.0])[:, None], target_length.clone(), h + 1, c + 2


class Joiner(nn.Module):
    def forward(self, encoder_outputs: Tensor, decoder_outputs: Tensor):
        return (encoder_outputs + decoder_outputs).squeeze(2)


STATES = {
    "encoder": [("cache_last_channel", ["N", 2, 1, V]), ("cache_last_time", ["N", 1, 1, 1]), ("count", ["N"])],
    "decoder": [("state_0", [1, "N", V]), ("state_1", [1, "N", V])],
}
SETTINGS = {
    "format": 1,
    "name": "loud",
    "type": "nemo",
    "weights": "factored",
    "files": {"fp32": {name: f"{name}.onnx" for name in ("encoder", "decoder", "joiner")}},
    "vocab_size": V,
    "blank_id": BLANK,
    "unk_id": 0,
    "features": {"preset": "sherpa", "sample_rate_hz": RATE, "num_mel_bins": BINS},
    "window": WINDOW,
    "shift": SHIFT,
    "subsampling": STRIDE,
    "frames_per_step": CHUNK,
    "chunk_ms": 10 * SHIFT,
    "look_ahead_ms": 10 * (WINDOW - SHIFT),
    "tail_padding_ms": 1000,
    "joint_dim": V,
    "encoder": {"kind": "loudness"},
    "predictor": {"kind": "lstm", "context_size": None},
    "states": {
        part: [dict(input=n, output=n, dtype="int64" if n == "count" else "float32", shape=s) for n, s in states]
        for part, states in STATES.items()
    },
    "decode": {"kind": "greedy", "beam": 16, "max_symbols": 5, "nbest": 4, "blank_penalty": 0.0},
}


def save_folder(folder: Path) -> Path:
    """Write an exported folder of the type `nemo`."""
    folder.mkdir(parents=True, exist_ok=True)
    n = 2  # rows of the examples
    zeros = {
        part: [torch.zeros([n if size == "N" else size for size in shape]) for _, shape in states]
        for part, states in STATES.items()
    }
    zeros["encoder"][2] = zeros["encoder"][2].long()
    lengths = torch.ones(n, dtype=torch.int64)
    _export(Encoder(), (torch.zeros(n, BINS, WINDOW), lengths, *zeros["encoder"]), folder / "encoder.onnx")
    targets = torch.zeros(n, 1, dtype=torch.int32)
    _export(Decoder(), (targets, lengths.int(), *zeros["decoder"]), folder / "decoder.onnx", state_axis=1)
    _export(Joiner(), (torch.zeros(n, V, 1), torch.zeros(n, V, 1)), folder / "joiner.onnx")
    (folder / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return folder


def _export(module: nn.Module, inputs: tuple, path: Path, state_axis: int = 0) -> None:
    names = [f"in_{i}" for i in range(len(inputs))]
    axes = {name: {state_axis if i > 1 else 0: "N"} for i, name in enumerate(names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter is deprecated, but needs no package more
        torch.onnx.export(
            module, inputs, path, input_names=names, dynamic_axes=axes, dynamo=False, opset_version=17, verbose=False
        )


def sound(*parts: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """(Hz, seconds) one after another, each with soft ends; 0 Hz is silence."""
    pieces = []
    for hz, seconds in parts:
        time = np.arange(round(seconds * rate)) / rate
        edge = np.clip(np.minimum(time, seconds - time) / 0.03, 0, 1)
        pieces.append(0.3 * np.sin(np.pi / 2 * edge) ** 2 * np.sin(2 * np.pi * hz * time))
    return np.concatenate(pieces).astype(np.float32)


SPEECH = sound((0, 0.5), (A, 0.5), (B, 0.7), (0, 0.4), (A, 0.31), (0, 0.2))
