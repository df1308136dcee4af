"""The runtime's searches against those of PyTorch, on the same random networks in float64."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.transducers import BLANK, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import greedy_search
from residualformer.runtime.beam import BeamSearch, extend_key
from residualformer.runtime.greedy import GreedySearch


class TorchNetwork:
    """Predictor and joiner of a PyTorch model as the runtime wants them; counts what is asked for.

    `histories` is the number of times that the predictor was run for each label sequence.
    """

    def __init__(self, model):
        self.model, self.histories, self.calls = model, Counter(), Counter()

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


def drawn(seed: int):
    """A random problem: network, frames (N, T, D) with their lengths, and the settings of the search."""
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
    encoded, sizes = random_frames([*lengths, 1], seed)  # one more, so that there is a frame
    return TorchNetwork(model), encoded[:-1], sizes[:-1], settings, draw


def in_pieces(search, frames: list[np.ndarray], draw: random.Random):
    """Feed streams in pieces of random sizes, in random company; gives their states."""
    states, place = [search.start() for _ in frames], [0] * len(frames)
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


@pytest.mark.parametrize("seed", range(25))
def test_greedy_equals_that_of_torch(seed):
    network, encoded, lengths, settings, draw = drawn(seed)
    expected = greedy_search(network.model, encoded, lengths, settings)
    states = in_pieces(GreedySearch(network, BLANK, settings), network.project(encoded, lengths), draw)
    assert_equal([state.nbest()[0] for state in states], expected)
    for state, hypothesis in zip(states, expected, strict=True):
        assert state.last_label() == (hypothesis.frames[-1] if hypothesis.frames else None)


@pytest.mark.parametrize("seed", range(40))
def test_beam_gives_the_nbest_of_the_plain_one(seed):
    network, encoded, lengths, settings, draw = drawn(seed)
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
