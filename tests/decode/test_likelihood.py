"""The loss of references against a forward recursion written out, one utterance and one node at a time."""

import math

import numpy as np
import pytest
import torch
from support.transducers import BLANK, Oracle, random_frames, random_model

from residualformer.decode import likelihood
from residualformer.decode.likelihood import reference_nats
from residualformer.nn.joiner import AdditiveJoiner

LENGTHS = [7, 4, 1, 6]
REFERENCES = [[1, 2, 1], [3], [2, 2], []]


def forward_recursion(model, encoded, labels) -> float:
    """-log of the summed probability of all alignments: at frame t with s labels written, blank or the next label."""
    oracle = Oracle(model, encoded)
    reach = {(0, 0): 0.0}
    for t in range(len(encoded)):
        for s in range(len(labels) + 1):
            if (t, s) not in reach:
                continue
            logp = oracle.logp(tuple(labels[:s]), t)
            for node, step in (((t + 1, s), logp[BLANK]), ((t, s + 1), logp[labels[s]] if s < len(labels) else None)):
                if step is not None:
                    there = reach.get(node, -math.inf)
                    reach[node] = float(np.logaddexp(there, reach[t, s] + step))
    return -reach[len(encoded), len(labels)]


@pytest.fixture(params=["tanh", "additive"])
def model(request):
    model = random_model(5, seed=1)
    if request.param == "additive":
        torch.manual_seed(2)
        model.joiner = AdditiveJoiner(model.encoder.dim, model.predictor.dim, 5).double()
    return model


def test_it_is_minus_the_log_of_the_sum_over_all_alignments(model):
    encoded, lengths = random_frames(LENGTHS, seed=3)
    expected = [
        forward_recursion(model, frames[:length], labels)
        for frames, length, labels in zip(encoded, LENGTHS, REFERENCES, strict=True)
    ]
    # float64: 1e-9 leaves room for the order of summation only
    assert reference_nats(model, encoded, lengths, REFERENCES) == pytest.approx(expected, abs=1e-9)


def test_what_does_not_fit_at_once_is_taken_in_parts_and_what_never_fits_is_left_out(model, monkeypatch):
    encoded, lengths = random_frames(LENGTHS, seed=3)
    whole = reference_nats(model, encoded, lengths, REFERENCES)
    monkeypatch.setattr(likelihood, "MAX_NODES", 8)
    parts = reference_nats(model, encoded, lengths, REFERENCES)
    assert parts[0] is None and parts[1:] == pytest.approx(whole[1:], abs=1e-9)  # 7 frames, 4 positions: 28 nodes
