"""The runtime's searches against those of PyTorch, on the same random networks in float64."""

import random
from dataclasses import replace

import pytest
from support.torch_network import TorchNetwork, assert_equal, in_pieces
from support.transducers import BLANK, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import greedy_search
from residualformer.runtime.beam import BeamSearch, extend_key
from residualformer.runtime.greedy import GreedySearch


def drawn(seed: int, pause: int = 0):
    """A random problem: network, frames (N, T, D) with their lengths, and the settings of the search.

    With a `pause` of so many frames, after which the predictor starts afresh, utterances are three times as long.
    """
    draw = random.Random(seed)
    model = random_model(
        draw.randint(3, 12), seed, draw.uniform(0.5, 4), draw.choice(["lstm", "stateless"]), draw.uniform(-1, 4)
    )
    lengths = [draw.randint(0, 12) for _ in range(draw.randint(1, 4))]
    settings = DecodeConfig(
        max_symbols=draw.randint(1, 4),
        blank_penalty=draw.choice([0.0, 0.0, 1.5]),
        token_reward=draw.choice([0.0, 0.0, 1.2, -0.5]),
    )
    if pause:
        model.separator = 2
        lengths, settings = [3 * length for length in lengths], replace(settings, restart_s=pause * 0.04)
    encoded, sizes = random_frames([*lengths, 1], seed)  # one more, so that there is a frame
    return TorchNetwork(model), encoded[:-1], sizes[:-1], settings, draw


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("pause", [0, 1, 3])
def test_greedy_equals_that_of_torch(seed, pause):
    network, encoded, lengths, settings, draw = drawn(seed, pause)
    expected = greedy_search(network.model, encoded, lengths, settings)
    states = in_pieces(GreedySearch(network, BLANK, settings), network.project(encoded, lengths), draw)
    assert_equal([state.nbest()[0] for state in states], expected)
    for state, hypothesis in zip(states, expected, strict=True):
        assert state.last_label() == (hypothesis.frames[-1] if hypothesis.frames else None)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("pause", [0, 1, 3])
def test_beam_gives_the_nbest_of_the_plain_one(seed, pause):
    network, encoded, lengths, settings, draw = drawn(seed, pause)
    beam = draw.choice([1, 2, 3, 4, 8, 16])
    settings = replace(settings, beam=beam, nbest=beam, length_norm=draw.random() < 0.5)
    expected = beam_search(network.model, encoded, lengths, settings)
    keep = draw.choice([0, None])  # what is remembered of the predictor changes only the work
    search = BeamSearch(network, BLANK, settings, keep)
    for state, nbest in zip(in_pieces(search, network.project(encoded, lengths), draw), expected, strict=True):
        assert_equal(state.nbest(beam), nbest)
        assert state.last_label() == (nbest[0].frames[-1] if nbest[0].frames else None)


def test_the_predictor_runs_once_for_each_prefix():
    network, width = TorchNetwork(random_model(9, seed=4, sharpness=2.5, blank_bias=2.0)), 8
    encoded, lengths = random_frames([40], seed=4)
    search = BeamSearch(network, BLANK, DecodeConfig(beam=width), keep=100_000)
    state = search.start()
    search.advance([state], network.project(encoded, lengths))
    assert set(network.histories.values()) == {1}
    once, plain = len(network.histories), TorchNetwork(network.model)
    search = BeamSearch(plain, BLANK, DecodeConfig(beam=width), keep=0)
    search.advance([search.start()], plain.project(encoded, lengths))
    assert plain.histories.total() > 1.2 * once  # a search without memory asks again and again


def test_what_is_remembered_stays_small():
    network, width = TorchNetwork(random_model(30, seed=5, sharpness=1.0)), 4
    encoded, lengths = random_frames([200], seed=5)
    search = BeamSearch(network, BLANK, DecodeConfig(beam=width))
    state = search.start()
    for frame in network.project(encoded, lengths)[0]:
        search.advance([state], [frame[None]])
        assert len(state.predictions) <= 4 * width and len(state.alive) <= width
        assert all(prefix.key in state.predictions for prefix in state.alive)


def test_streams_share_each_call():
    """Four equal streams cost as many calls as one."""
    model = random_model(9, seed=6, sharpness=2.5, blank_bias=1.0)
    encoded, _ = random_frames([20], seed=6)
    for kind in (GreedySearch, BeamSearch):
        calls = []
        for count in (1, 4):
            network = TorchNetwork(model)
            search = kind(network, BLANK, DecodeConfig(beam=4))
            states = [search.start() for _ in range(count)]
            search.advance(states, network.project(encoded, [20]) * count)
            assert len({tuple(state.nbest()[0].tokens) for state in states}) == 1
            calls.append(network.calls)
        assert calls[0] == calls[1]


def test_keys_tell_sequences_apart_and_do_not_depend_on_the_past():
    keys = {0}
    for _ in range(4):
        keys |= {extend_key(key, label) for key in keys for label in range(7)}
    assert len(keys) == 1 + 7 + 49 + 343 + 2401
