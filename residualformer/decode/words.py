"""Times and confidences of the words that a trained model has recognized."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.constants import BLANK, FRAME_SHIFT_S
from residualformer.hypothesis import Hypothesis, pause_frames
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer
from residualformer.words.alignment import REACH_S, Alignment, Array, Logits, Memory, align, with_inserted


def align_hypothesis(
    model: Transducer, encoded: Tensor, hypothesis: Hypothesis, settings: DecodeConfig, reach_s: float | None = REACH_S
) -> Alignment:
    """Return the posterior over the alignments of a hypothesis to the encoder's output (T, D), T >= 1.

    Args:
        reach_s: of the band of the lattice around the frames of the hypothesis; None for the whole lattice.
    """
    reach = None if reach_s is None else round(reach_s / frame_s(model))
    labels, frames = ([part[place] for place in hypothesis.written] for part in (hypothesis.tokens, hypothesis.frames))
    pause = pause_frames(settings.restart_s, model.encoder.stride) if settings.restart_s else 0
    logits = lattice_logits(model, encoded, labels, Memory(frames, pause))
    found = align(logits, labels, frames, len(encoded), BLANK, reach, settings.blank_penalty)
    return with_inserted(found, hypothesis)


def lattice_logits(model: Transducer, encoded: Tensor, labels: Sequence[int], memory: Memory) -> Logits:
    """Return the function from nodes of the lattice of `labels` and `encoded` (T, D) to `Logits`."""
    device = encoded.device

    @torch.no_grad()
    def predict(first: int, end: int) -> Array:
        history = torch.tensor([labels[first:end]], dtype=torch.int64, device=device)
        return model.joiner.project_predictor(model.predictor(history)[0]).cpu().numpy()

    with torch.no_grad():
        frames = model.joiner.project_encoder(encoded)
        predicted = torch.from_numpy(memory.outputs(predict)).to(device)  # (U + 1, J)

    @torch.no_grad()
    def logits(times: Array, written: Array) -> Array:
        rows = torch.from_numpy(memory.rows(times, written)).to(device)
        return model.joiner.output(frames[torch.from_numpy(times).to(device)] + predicted[rows]).cpu().numpy()

    return logits


def has_words(bundle: Bundle) -> bool:
    """Return whether the model writes what is said, so that words have times; those of a translation have none."""
    return bundle.config.tokens.target == "text"


def frame_s(model: Transducer) -> float:
    """Return the seconds per encoder frame."""
    return model.encoder.stride * FRAME_SHIFT_S
