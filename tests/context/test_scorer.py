"""Scorers in both searches, in PyTorch and in the runtime, against an enumeration and a plain search."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from support.plain_search import all_alignments, plain_search
from support.scorers import HashScorer
from support.torch_network import TorchNetwork, assert_equal, in_pieces
from support.transducers import BLANK, Oracle, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Batch, BlankLast, JointContext, Sum, numbered
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import GreedySearch
from residualformer.runtime.beam import BeamSearch
from residualformer.runtime.greedy import GreedySearch as RuntimeGreedy

EVERYTHING = 1000  # more than there are label sequences


def allowed(scorer: HashScorer, found: list) -> list:
    """(labels, log P with context, context) of what may end, best first."""
    scored = [(labels, score + scorer.total(labels), scorer.total(labels)) for labels, score in found]
    return sorted((each for each in scored if each[1] > -math.inf), key=lambda each: -each[1])


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize(("forbidden", "norm"), [(0.0, False), (0.3, False), (0.3, True), (1.0, False)])
def test_an_unpruned_search_finds_the_best_of_all_alignments_and_scorer(kind, forbidden, norm):
    model, (encoded, lengths) = random_model(3, seed=2, sharpness=2.0, kind=kind), random_frames([3], seed=7)
    settings = DecodeConfig(beam=EVERYTHING, nbest=EVERYTHING, max_symbols=2, token_reward=0.4, length_norm=norm)
    scorer = HashScorer(3, seed=1, forbidden=forbidden)
    expected = allowed(scorer, all_alignments(Oracle(model, encoded[0]), 3, 2))
    order = (lambda e: -e[1] / (len(e[0]) + 1)) if norm else (lambda e: -e[1] - 0.4 * len(e[0]))
    expected.sort(key=order)
    (found,) = beam_search(model, encoded, lengths, settings, [scorer])
    assert [tuple(h.tokens) for h in found] == [labels for labels, *_ in expected]
    # float64 all along
    assert [h.context for h in found] == pytest.approx([context for *_, context in expected], rel=1e-9, abs=1e-9)
    totals = [h.score + h.context for h in found]
    assert totals == pytest.approx([score for _, score, _ in expected], rel=1e-9, abs=1e-9)
    assert (found == []) == (forbidden == 1.0)


def drawn(seed: int, longer: int = 1):
    """A random problem: network, frames of several utterances, settings, a function that gives new scorers for them.

    Utterances are `longer` times as long.
    """
    draw = random.Random(seed)
    size, count = draw.randint(3, 9), draw.randint(1, 4)
    model = random_model(size, seed, draw.uniform(0.5, 4), draw.choice(["lstm", "stateless"]), draw.uniform(-1, 4))
    encoded, lengths = random_frames([longer * draw.randint(1, 9) for _ in range(count)], seed)
    beam = draw.choice([1, 2, 3, 8])
    settings = DecodeConfig(
        beam=beam, nbest=beam, max_symbols=draw.randint(1, 3), token_reward=draw.choice([0.0, 1.2]),
        blank_penalty=draw.choice([0.0, 1.5]), length_norm=draw.random() < 0.3,
    )  # fmt: skip
    forbidden = draw.choice([0.0, 0.2])

    def scorers() -> list[HashScorer]:
        return [HashScorer(size, 10 * seed + n, forbidden=forbidden) for n in range(count)]

    return TorchNetwork(model), encoded, lengths, settings, scorers, draw


@pytest.mark.parametrize("seed", range(12))
def test_beam_equals_the_plain_one_and_that_of_the_runtime(seed):
    network, encoded, lengths, settings, scorers, draw = drawn(seed)
    found = beam_search(network.model, encoded, lengths, settings, scorers())
    for nbest, frames, length, scorer in zip(found, encoded, lengths, scorers(), strict=True):
        oracle = Oracle(network.model, frames[:length], settings.blank_penalty)
        size, reward = scorer.vocab_size, settings.token_reward
        expected = plain_search(oracle, size, settings.beam, settings.max_symbols, reward, scorer)
        ended = [(labels, score + scorer.ending(labels)) for labels, score in expected]
        ended = sorted((each for each in ended if each[1] > -math.inf), key=lambda each: -each[1])
        if settings.length_norm:
            ended.sort(key=lambda each: -(each[1] - reward * len(each[0])) / (len(each[0]) + 1))
        assert [tuple(h.tokens) for h in nbest] == [labels for labels, _ in ended]
        totals = [h.score + h.context + reward * len(h.tokens) for h in nbest]
        assert totals == pytest.approx([score for _, score in ended], rel=1e-9, abs=1e-9)
        assert [h.context for h in nbest] == pytest.approx([scorer.total(tuple(h.tokens)) for h in nbest])
    frames = network.project(encoded, lengths)
    for state, nbest in zip(
        in_pieces(BeamSearch(network, BLANK, settings), frames, draw, scorers()), found, strict=True
    ):
        assert_equal(state.nbest(settings.beam, ended=True), nbest)
        assert len(state.nbest(settings.beam)) == len(state.alive)  # so far, without the end


@pytest.mark.parametrize("seed", range(12))
def test_greedy_equals_that_of_the_runtime_in_pieces(seed):
    network, encoded, lengths, settings, scorers, draw = drawn(seed)
    search = GreedySearch(network.model, len(lengths), settings, scorers())
    search.feed(encoded, lengths)
    states = in_pieces(RuntimeGreedy(network, BLANK, settings), network.project(encoded, lengths), draw, scorers())
    for state, so_far, nbest, scorer in zip(states, search.results(), search.ended(), scorers(), strict=True):
        assert_equal(state.nbest(), [so_far])
        assert_equal(state.nbest(ended=True), nbest)
        assert [h.context for h in nbest] == pytest.approx([scorer.total(tuple(h.tokens)) for h in nbest])


@pytest.mark.parametrize("pause", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_across_pauses_scorers_read_what_is_written(seed, pause):
    """With the separator that is put where the predictor started afresh, in all four searches."""
    network, encoded, lengths, settings, scorers, draw = drawn(seed, longer=3)
    network.model.separator = 2  # as TorchNetwork.pieces has it
    settings = replace(settings, restart_s=pause * 0.04)
    found = beam_search(network.model, encoded, lengths, settings, scorers())
    greedy = GreedySearch(network.model, len(lengths), settings, scorers())
    greedy.feed(encoded, lengths)
    frames = network.project(encoded, lengths)
    streams = in_pieces(BeamSearch(network, BLANK, settings), frames, draw, scorers())
    greedy_streams = in_pieces(RuntimeGreedy(network, BLANK, settings), frames, draw, scorers())
    for *states, nbest, one, scorer in zip(streams, greedy_streams, found, greedy.ended(), scorers(), strict=True):
        assert_equal(states[0].nbest(settings.beam, ended=True), nbest)
        assert_equal(states[1].nbest(ended=True), one)
        for each in (*nbest, *one):
            assert each.context == pytest.approx(scorer.total(tuple(each.tokens)))


def test_a_scorer_without_effect_changes_no_bit():
    network, encoded, lengths, settings, scorers, _ = drawn(3)
    without = [HashScorer(scorer.vocab_size, seed=0, spread=0.0) for scorer in scorers()]
    assert beam_search(network.model, encoded, lengths, settings, without) == beam_search(
        network.model, encoded, lengths, settings
    )


def test_a_sum_adds_up_and_forgets_what_its_parts_forget():
    first, second = HashScorer(5, 1), HashScorer(5, 2, forbidden=0.3)
    both = Sum([first, second])
    states = both.advance(np.array([both.start()] * 3), np.array([1, 2, 1]))
    assert states[0] == states[2] != states[1]
    expected = [[0, *(first.added((k,), n) + second.added((k,), n) for n in range(1, 5))] for k in (1, 2, 1)]
    np.testing.assert_allclose(both.scores(states), np.array(expected, np.float32), rtol=1e-6)
    np.testing.assert_allclose(both.final(states)[0], np.float32(first.ending((1,)) + second.ending((1,))), rtol=1e-6)
    both.keep(states[1:2])
    assert list(first.sequences.values()) == list(second.sequences.values()) == [(2,)]
    assert len(both.advance(states[1:2], np.array([4]))) == 1
    with pytest.raises(KeyError):
        both.scores(states[:1])


def test_one_scorer_needs_no_sum():
    class Fixed:
        def scorer(self):
            return scorer

    scorer = HashScorer(4, 1)
    assert JointContext([Fixed()]).scorer() is scorer
    assert JointContext([Fixed(), Fixed()]).scorer().parts == (scorer, scorer)


def test_a_folder_with_the_blank_last_numbers_labels_one_lower():
    plain, last = HashScorer(5, 1), numbered(HashScorer(5, 1), blank=4)
    assert isinstance(last, BlankLast) and numbered(plain, BLANK) is plain
    labels = np.array([1, 4])
    states = plain.advance(np.array([plain.start()] * 2), labels)
    shifted = last.advance(np.array([last.start()] * 2), labels - 1)
    np.testing.assert_array_equal(np.roll(plain.scores(states), -1, axis=1), last.scores(shifted))
    np.testing.assert_array_equal(plain.final(states), last.final(shifted))


def test_a_batch_asks_each_scorer_for_its_own_streams():
    shared, own = HashScorer(4, 1), HashScorer(4, 2)
    batch = Batch([shared, own, shared])
    starts = batch.start()
    streams = np.array([2, 1, 0, 1])
    states = batch.advance(streams, starts[streams], np.array([1, 2, 3, 1]))
    expected = [shared, own, shared, own], [(1,), (2,), (3,), (1,)]
    rows = [[0, *(scorer.added(labels, k) for k in range(1, 4))] for scorer, labels in zip(*expected, strict=True)]
    np.testing.assert_array_equal(batch.scores(streams, states), np.array(rows, np.float32))
    ends = [scorer.ending(labels) for scorer, labels in zip(*expected, strict=True)]
    np.testing.assert_array_equal(batch.final(streams, states), np.array(ends, np.float32))
