"""Beam search against the enumeration of all alignments, and against a plain search with dictionaries."""

import itertools
import math
import random
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from support.plain_search import all_alignments, plain_search, plain_search_with_pauses
from support.transducers import BLANK, Oracle, assert_same, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import greedy_search
from residualformer.decode.hypotheses import extend_keys
from residualformer.hypothesis import Hypothesis

EVERYTHING = 1000  # more than there are label sequences: a beam that never prunes


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize(("beam", "pause"), [(1, 1), (4, 1), (4, 2), (8, 3)])
def test_the_predictor_starts_afresh_after_a_pause(beam, pause, kind):
    model = random_model(7, seed=beam, sharpness=2, kind=kind, blank_bias=4)
    encoded, lengths = random_frames([25, 14], seed=pause)
    settings = DecodeConfig(beam=beam, max_symbols=2, nbest=beam, restart_s=pause * 0.04)
    found = beam_search(model, encoded, lengths, settings)
    for nbest, frames, length in zip(found, encoded, lengths.tolist(), strict=True):
        assert_same(nbest, plain_search_with_pauses(Oracle(model, frames[:length]), 7, beam, 2, pause))
    assert found != beam_search(model, encoded, lengths, replace(settings, restart_s=0.0))


def unpruned(model, encoded, lengths, max_symbols: int, nbest: int = EVERYTHING, **options) -> list[Hypothesis]:
    """The hypotheses of the first utterance by a beam search that keeps all."""
    settings = DecodeConfig(beam=EVERYTHING, max_symbols=max_symbols, nbest=nbest, **options)
    return beam_search(model, encoded, lengths, settings)[0]


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize(("num_frames", "vocab_size", "max_symbols"), [(1, 3, 3), (3, 3, 2), (4, 4, 1), (4, 3, 2)])
def test_unpruned_search_sums_all_alignments(num_frames, vocab_size, max_symbols, kind):
    model = random_model(vocab_size, seed=num_frames, sharpness=2.0, kind=kind)
    encoded, lengths = random_frames([num_frames], seed=7)
    found = unpruned(model, encoded, lengths, max_symbols)
    expected = all_alignments(Oracle(model, encoded[0]), vocab_size, max_symbols)
    assert_same(found, expected)
    normalized = sorted(expected, key=lambda item: -item[1] / (len(item[0]) + 1))
    rewarded = sorted(expected, key=lambda item: -item[1] - 1.3 * len(item[0]))
    for options, order in (({"length_norm": True}, normalized), ({"token_reward": 1.3}, rewarded)):
        assert_same(unpruned(model, encoded, lengths, max_symbols, **options), order)
    found = unpruned(model, encoded, lengths, max_symbols, nbest=3, token_reward=0.7, length_norm=True)
    assert_same(found, normalized[:3])  # the reward is for the search alone


def test_without_pruning_the_probabilities_sum_to_at_most_one_and_grow_with_max_symbols():
    model = random_model(3, seed=1)
    encoded, lengths = random_frames([3], seed=2)
    totals = []
    for max_symbols in (1, 2, 3):
        found = unpruned(model, encoded, lengths, max_symbols)
        totals.append(sum(math.exp(hypothesis.score) for hypothesis in found))
    assert totals[0] < totals[1] < totals[2] < 1


@pytest.mark.parametrize("seed", range(25))
def test_equals_the_plain_search_on_random_models(seed):
    draw = random.Random(seed)
    vocab_size, beam, max_symbols = draw.randint(3, 12), draw.choice([1, 2, 3, 4, 8, 16]), draw.randint(1, 4)
    kind, penalty = draw.choice(["lstm", "stateless"]), draw.choice([0.0, 0.0, 1.5])
    reward, norm = draw.choice([0.0, 0.0, 1.2, -0.5]), draw.random() < 0.5
    model = random_model(vocab_size, seed, draw.uniform(0.5, 4), kind, blank_bias=draw.uniform(-1, 4))
    lengths = [draw.randint(1, 9) for _ in range(draw.randint(1, 4))]
    encoded, sizes = random_frames(lengths, seed)
    settings = DecodeConfig(
        beam=beam, max_symbols=max_symbols, nbest=beam, blank_penalty=penalty, token_reward=reward, length_norm=norm
    )
    found = beam_search(model, encoded, sizes, settings)
    shorter = beam_search(model, encoded, sizes, replace(settings, nbest=2))
    assert [nbest[:2] for nbest in found] == shorter
    for nbest, frames, length in zip(found, encoded, lengths, strict=True):
        oracle = Oracle(model, frames[:length], penalty)
        expected = plain_search(oracle, vocab_size, beam, max_symbols, reward)
        scores = {labels: score - reward * len(labels) for labels, score in expected}
        if norm:
            expected = sorted(expected, key=lambda item: -scores[item[0]] / (len(item[0]) + 1))
        assert_same(nbest, [(labels, scores[labels]) for labels, _ in expected])


def test_token_frames_are_those_of_an_alignment_that_contributes():
    model = random_model(5, seed=3, sharpness=2, blank_bias=1)
    encoded, lengths = random_frames([12, 7], seed=3)
    found = beam_search(model, encoded, lengths, DecodeConfig(beam=8, max_symbols=2))
    for nbest, frames, length in zip(found, encoded, (12, 7), strict=True):
        assert len(nbest) == 4
        for hypothesis in nbest:
            assert hypothesis.frames == sorted(hypothesis.frames)
            assert max(hypothesis.frames.count(t) for t in range(length)) <= 2
            assert path_score(Oracle(model, frames[:length]), hypothesis) < hypothesis.score + 1e-12


def path_score(oracle: Oracle, hypothesis) -> float:
    """log P of the single alignment that `hypothesis.frames` tells."""
    labels_at = defaultdict(list)
    for label, frame in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        labels_at[frame].append(label)
    history: tuple[int, ...] = ()
    score = 0.0
    for frame in range(oracle.num_frames):
        for label in labels_at[frame]:
            score += oracle.logp(history, frame)[label]
            history += (label,)
        score += oracle.logp(history, frame)[BLANK]
    return score


def test_batch_and_padding_change_nothing():
    model = random_model(10, seed=5, sharpness=2, blank_bias=2)
    lengths = [6, 15, 1, 15, 9]
    encoded, sizes = random_frames(lengths, seed=5)
    settings = DecodeConfig(beam=4, max_symbols=3)
    together = beam_search(model, encoded, sizes, settings)
    padded = torch.cat([encoded, torch.full((5, 20, encoded.shape[2]), 1e3).double()], dim=1)
    assert [flat(n) for n in beam_search(model, padded, sizes, settings)] == [flat(n) for n in together]
    for i, length in enumerate(lengths):
        alone = beam_search(model, encoded[i : i + 1, :length], sizes[i : i + 1], settings)[0]
        assert_same(alone, [(tuple(h.tokens), h.score) for h in together[i]])
        assert [h.frames for h in alone] == [h.frames for h in together[i]]


def flat(nbest):
    return [(h.tokens, h.frames, round(h.score, 9)) for h in nbest]


def test_an_utterance_without_frames_has_the_empty_hypothesis():
    model = random_model(6, seed=1)
    encoded, _ = random_frames([5, 5], seed=1)
    settings = DecodeConfig(beam=4)
    nbest = beam_search(model, encoded, torch.tensor([0, 5]), settings)
    assert flat(nbest[0]) == [([], [], 0.0)] and len(nbest[1]) == 4
    assert flat(beam_search(model, encoded[:1, :0], torch.tensor([0]), settings)[0]) == [([], [], 0.0)]
    assert beam_search(model, encoded[:0], torch.tensor([], dtype=torch.int64), settings) == []


class Certain(torch.nn.Module):
    """Writes the label of each frame exactly once: no choice has a rival."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.margin = torch.nn.Parameter(50 * torch.nn.functional.one_hot(torch.tensor(BLANK), vocab_size).double())
        self.predictor = self.joiner = self

    def init_state(self, batch_size: int):
        return (torch.zeros(batch_size, 1),)

    def step(self, labels, state):
        return -100 * torch.nn.functional.one_hot(labels, len(self.margin)) * (labels != BLANK)[:, None], state

    def project_encoder(self, frames):
        return 100 * frames

    def project_predictor(self, out):
        return out.double()

    def output(self, joint):
        return joint + self.margin


@pytest.mark.parametrize("beam", [1, 2, 16])
def test_a_certain_model_is_read_off_by_both_searches(beam):
    labels = [3, 0, 1, 2, 0, 0, 1, 4]
    frames = torch.nn.functional.one_hot(torch.tensor([labels, labels[::-1]]), 5).double()
    lengths = torch.tensor([8, 5])
    expected = [([3, 1, 2, 1, 4], [0, 2, 3, 6, 7]), ([4, 1, 2], [0, 1, 4])]
    greedy = greedy_search(Certain(5), frames, lengths, DecodeConfig())
    best = [nbest[0] for nbest in beam_search(Certain(5), frames, lengths, DecodeConfig(beam=beam))]
    assert [(h.tokens, h.frames) for h in greedy] == [(h.tokens, h.frames) for h in best] == expected


def test_the_sum_over_alignments_is_at_least_the_greedy_one():
    model = random_model(3, seed=9)
    encoded, lengths = random_frames([4], seed=9)
    greedy = greedy_search(model, encoded, lengths, DecodeConfig(max_symbols=2))[0]
    found = unpruned(model, encoded, lengths, max_symbols=2)
    assert {tuple(h.tokens): h.score for h in found}[tuple(greedy.tokens)] > greedy.score - 1e-12


def test_keys_tell_sequences_apart():
    """All 9840 sequences of at most 8 labels out of 3 have different keys; the order in a batch does not matter."""
    sequences = [s for n in range(9) for s in itertools.product([1, 2, 3], repeat=n)]
    keys = set()
    for length, group in itertools.groupby(sequences, key=len):
        labels = torch.tensor(list(group), dtype=torch.int64).view(3**length, length)
        key = torch.zeros(len(labels), dtype=torch.int64)
        for column in labels.T:
            key = extend_keys(key, column)
        keys.update(key.tolist())
    assert len(keys) == len(sequences)
