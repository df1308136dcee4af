"""A PyTorch model's predictor and joiner as the runtime's searches want them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from residualformer.constants import SPACE
from residualformer.context.scorer import Scorer


class TorchNetwork:
    """Predictor and joiner of a PyTorch model as the runtime wants them; counts what is asked for.

    `histories` is the number of times that the predictor was run for each label sequence.
    """

    def __init__(self, model):
        self.model, self.histories, self.calls = model, Counter(), Counter()
        self.stride, self.pieces = model.encoder.stride, ["<blk>", "a", SPACE]

    def predictor_state(self):
        return ((), *(part[0].numpy() for part in self.model.predictor.init_state(1)))

    @torch.no_grad()
    def predict(self, labels, states):
        pasts, *parts = zip(*states, strict=True)
        histories = [(*past, label) for past, label in zip(pasts, labels, strict=True)]
        self.histories.update(histories)
        self.calls["predict"] += 1
        stacked = tuple(torch.from_numpy(np.stack(part)) for part in parts)
        out, new = self.model.predictor.step(torch.tensor(labels), stacked)
        out = self.model.joiner.project_predictor(out).numpy()
        return [(out[n], (histories[n], *(part[n].numpy() for part in new))) for n in range(len(labels))]

    @torch.no_grad()
    def join(self, encoded, predicted):
        self.calls["join"] += 1
        return self.model.joiner.output(torch.from_numpy(encoded + predicted)).numpy()

    def project(self, encoded: torch.Tensor, lengths: list[int]) -> list[np.ndarray]:
        """The frames of each utterance, as an exported encoder gives them."""
        with torch.no_grad():
            projected = self.model.joiner.project_encoder(encoded).numpy()
        return [frames[:length] for frames, length in zip(projected, lengths, strict=True)]


def in_pieces(search, frames: list[np.ndarray], draw: random.Random, scorers: Sequence[Scorer] = ()):
    """Feed streams in pieces of random sizes, in random company; gives their states."""
    states = [search.start(scorer) for scorer in scorers or [None] * len(frames)]
    place = [0] * len(frames)
    while any(p < len(f) for p, f in zip(place, frames, strict=True)):
        chosen = [n for n in range(len(frames)) if draw.random() < 0.7]
        sizes = [draw.randint(0, 5) for _ in chosen]
        pieces = [frames[n][place[n] : place[n] + size] for n, size in zip(chosen, sizes, strict=True)]
        search.advance([states[n] for n in chosen], pieces)
        for n, piece in zip(chosen, pieces, strict=True):
            place[n] += len(piece)
    assert [state.num_frames for state in states] == [len(f) for f in frames]
    return states


def assert_equal(found, expected):
    assert [(h.tokens, h.frames) for h in found] == [(h.tokens, h.frames) for h in expected]
    # float64, sums in another order
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-9, abs=1e-9)
    assert [h.context for h in found] == pytest.approx([h.context for h in expected], rel=1e-9, abs=1e-9)
