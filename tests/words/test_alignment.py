"""The posterior over alignments: against brute force over all alignments, the exact loss, and on its own limits."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from support.transducers import Oracle, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.decode.greedy import greedy_search
from residualformer.decode.likelihood import reference_nats
from residualformer.decode.words import align_hypothesis, lattice_logits
from residualformer.words import alignment as module
from residualformer.words.alignment import Memory, align

LABELS = (2, 1, 3, 3)
NUM_FRAMES = 5


@pytest.fixture(scope="module")
def model():
    return random_model(vocab_size=5, seed=1, sharpness=2.0)


@pytest.fixture(scope="module")
def encoded():
    return random_frames([NUM_FRAMES], seed=2)[0][0]


def after_pauses(labels, written, pause):
    """Return for (u, t) what the predictor remembers of labels[:u] at frame t, where a search wrote at `written`."""

    def remembered(u, t):
        if u and t - written[u - 1] > pause:
            return ()
        first = max((v for v in range(1, u) if written[v] - written[v - 1] > pause), default=0)
        return labels[first:u]

    return remembered


def logits_of(model, encoded, labels):
    predicted = model.predictor(torch.tensor([labels], dtype=torch.int64))[0]

    @torch.no_grad()
    def logits(frames, written):
        return model.joiner(encoded[frames], predicted[written]).numpy()

    return logits


def brute_force(oracle, labels, allowed, remembered=None):
    """Frames, log-probabilities given no blank, and total, by going through each alignment; `allowed(u, t)`."""
    remembered = remembered or (lambda u, t: labels[:u])
    total, frames, chances = 0.0, np.zeros(len(labels)), np.zeros(len(labels))
    for path in combinations_with_replacement(range(oracle.num_frames), len(labels)):
        if not all(allowed(u, t) for u, t in enumerate(path)):
            continue
        logp, given = 0.0, []
        for t in range(oracle.num_frames):
            for u in (u for u, frame in enumerate(path) if frame == t):
                row = oracle.logp(remembered(u, t), t)
                logp += row[labels[u]]
                given.append(np.exp(row[labels[u]]) / (1 - np.exp(row[0])))
            logp += oracle.logp(remembered(sum(frame <= t for frame in path), t), t)[0]
        total += np.exp(logp)
        frames += np.exp(logp) * np.array(path)
        chances += np.exp(logp) * np.array(given)
    return frames / total, np.log(chances / total), np.log(total)


@pytest.mark.parametrize("reach", [None, 0, 1, 2])
@pytest.mark.parametrize("blank_penalty", [0.0, 0.7])
def test_it_is_the_sum_over_all_alignments(model, encoded, reach, blank_penalty):
    written = (0, 2, 2, 4)
    found = align(logits_of(model, encoded, LABELS), LABELS, written, NUM_FRAMES, 0, reach, blank_penalty)
    oracle = Oracle(model, encoded, blank_penalty)
    frames, chances, total = brute_force(oracle, LABELS, lambda u, t: reach is None or abs(t - written[u]) <= reach)
    assert found.frames == pytest.approx(frames, abs=1e-9)  # float64
    assert found.log_probabilities == pytest.approx(chances, abs=1e-9)
    assert found.score == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("reach", [None, 0, 1, 3])
@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize(
    ("pause", "written"), [(2, (0, 1, 5, 6)), (1, (0, 3, 3, 6)), (1, (1, 1, 2, 3)), (5, (0, 6, 6, 6))]
)
def test_it_is_the_sum_over_all_alignments_by_a_predictor_that_starts_afresh_after_pauses(kind, pause, written, reach):
    model, encoded = random_model(5, seed=3, sharpness=2.0, kind=kind), random_frames([8], seed=4)[0][0]
    found = align(lattice_logits(model, encoded, LABELS, Memory(written, pause)), LABELS, written, 8, 0, reach)
    expected = brute_force(
        Oracle(model, encoded),
        LABELS,
        lambda u, t: reach is None or abs(t - written[u]) <= reach,
        after_pauses(LABELS, written, pause),
    )
    assert found.frames == pytest.approx(expected[0], abs=1e-9)  # float64
    assert found.log_probabilities == pytest.approx(expected[1], abs=1e-9)
    assert found.score == pytest.approx(expected[2], abs=1e-9)


@pytest.mark.parametrize("separator", [None, 3])
@pytest.mark.parametrize("pause", [0, 1, 2, 3])
def test_the_alignment_of_a_greedy_search_has_its_score(pause, separator):
    """Of paths that differ from it by no frame there is one, with the predictor's outputs that the search has seen."""
    model = random_model(9, seed=4, sharpness=2, blank_bias=4)
    model.separator = separator
    encoded, lengths = random_frames([60], seed=4)
    settings = DecodeConfig(kind="greedy", max_symbols=2, restart_s=pause * 0.04)
    (hypothesis,) = greedy_search(model, encoded, lengths, settings)
    found = align_hypothesis(model, encoded[0], hypothesis, settings, reach_s=0.0)
    assert found.score == pytest.approx(hypothesis.score, abs=1e-9)  # float64
    assert found.frames.tolist() == hypothesis.frames
    assert len(found.log_probabilities) == len(hypothesis.tokens)
    assert bool(hypothesis.inserted) == (pause > 0 and separator is not None)
    assert (found.log_probabilities[list(hypothesis.inserted)] == 0).all()


def test_the_whole_lattice_has_the_score_of_the_exact_loss(model, monkeypatch):
    monkeypatch.setattr(module, "NODES_AT_ONCE", 7)
    encoded, lengths = random_frames([30], seed=3)
    labels = [1, 4, 2, 2, 3, 1]
    found = align(logits_of(model, encoded[0], labels), labels, [0] * 6, 30, 0)
    assert -found.score == pytest.approx(reference_nats(model, encoded, lengths, [labels])[0], abs=1e-9)
    assert (np.diff(found.frames) >= 0).all()


def test_no_labels(model, encoded):
    found = align(logits_of(model, encoded, ()), (), (), NUM_FRAMES, 0, reach=2)
    oracle = Oracle(model, encoded)
    assert found.score == pytest.approx(sum(oracle.logp((), t)[0] for t in range(NUM_FRAMES)))
    assert found.frames.shape == found.log_probabilities.shape == (0,)


def test_hours_of_blanks_and_certain_labels_lose_no_precision():
    """Sums of many log-probabilities of blanks differ by far more than what is looked for."""

    def logits(frames, written):
        rows = np.zeros((len(frames), 3))
        rows[:, 0] = 20.0
        for u in range(3):
            rows[(written == u) & (frames == 40_000 * (u + 1)), 1] = 60.0
        return rows

    found = align(logits, [1, 1, 1], [40_001, 79_999, 120_000], 130_000, 0, reach=3)
    assert found.frames == pytest.approx([40_000, 80_000, 120_000], abs=1e-6)
    assert found.log_probabilities == pytest.approx(0, abs=1e-6)
