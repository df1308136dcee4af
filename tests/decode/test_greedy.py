"""Greedy search against a loop over one utterance, whole and in pieces."""

import pytest
import torch
from support.transducers import BLANK, Oracle, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.decode.greedy import GreedySearch, greedy_search


def plain_greedy(oracle: Oracle, max_symbols: int, reward: float) -> tuple[list[int], list[int], float]:
    labels: list[int] = []
    frames: list[int] = []
    score = 0.0
    for frame in range(oracle.num_frames):
        for symbols in range(max_symbols + 1):
            logp = oracle.logp(tuple(labels), frame)
            worth = [logp[k] + reward * (k != BLANK) for k in range(len(logp))]
            best = max(range(len(logp)), key=worth.__getitem__) if symbols < max_symbols else BLANK
            score += logp[best]
            if best == BLANK:
                break
            labels.append(best)
            frames.append(frame)
    return labels, frames, score


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize(
    ("seed", "max_symbols", "penalty", "reward"),
    [(1, 1, 0.0, 0.0), (2, 3, 0.0, 0.0), (3, 5, 1.0, 0.0), (4, 2, -2.0, 0.0), (5, 3, 0.0, 1.5), (6, 3, 0.5, -1.0)],
)
def test_equals_the_loop_over_one_utterance(seed, max_symbols, penalty, reward, kind):
    model = random_model(9, seed, sharpness=2, kind=kind, blank_bias=3)
    lengths = [11, 3, 17, 1]
    encoded, sizes = random_frames(lengths, seed)
    found = greedy_search(
        model, encoded, sizes, DecodeConfig(max_symbols=max_symbols, blank_penalty=penalty, token_reward=reward)
    )
    for hypothesis, frames, length in zip(found, encoded, lengths, strict=True):
        labels, times, score = plain_greedy(Oracle(model, frames[:length], penalty), max_symbols, reward)
        assert (hypothesis.tokens, hypothesis.frames) == (labels, times)
        assert hypothesis.score == pytest.approx(score, abs=1e-9)


def test_a_reward_for_labels_is_to_this_search_a_penalty_for_the_blank():
    model = random_model(9, seed=7, sharpness=2, blank_bias=3)
    encoded, lengths = random_frames([30, 20], seed=7)
    options = ({"token_reward": 2.0}, {"blank_penalty": 2.0}, {})
    rewarded, penalized, plain = (
        greedy_search(model, encoded, lengths, DecodeConfig(max_symbols=3, **each)) for each in options
    )
    assert [each.tokens for each in rewarded] == [each.tokens for each in penalized] != [each.tokens for each in plain]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_pieces_of_any_length_give_the_same(size):
    model = random_model(9, seed=4, sharpness=2, blank_bias=2)
    encoded, lengths = random_frames([20, 9, 0, 14], seed=4)
    whole = greedy_search(model, encoded, lengths, DecodeConfig())
    search = GreedySearch(model, 4, DecodeConfig())
    for start in range(0, 20, size):
        search.feed(encoded[:, start : start + size], (lengths - start).clamp(0, size))
    for piecewise, expected in zip(search.results(), whole, strict=True):
        assert (piecewise.tokens, piecewise.frames) == (expected.tokens, expected.frames)
        assert piecewise.score == pytest.approx(expected.score, abs=1e-9)
    assert whole[2].tokens == [] and whole[2].score == 0


def spelled_out(model, encoded, max_symbols: int, pause: int) -> tuple[list[int], list[int], float]:
    """The search frame by frame, where the predictor reads all labels since its last start at once."""
    tokens, frames, heard, score = [], [], [], 0.0
    for t, frame in enumerate(encoded):
        if heard and t - frames[-1] - 1 >= pause:
            heard = []
        for symbols in range(max_symbols + 1):
            with torch.no_grad():
                logp = model.joiner(frame, model.predictor(torch.tensor(heard, dtype=torch.int64)[None])[0, -1])
            logp = logp.log_softmax(-1)
            label = BLANK if symbols == max_symbols else int(logp.argmax())
            score += float(logp[label])
            if label == BLANK:
                break
            heard.append(label)
            tokens.append(label)
            frames.append(t)
    return tokens, frames, score


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize("pause", [1, 2, 3])
def test_the_predictor_starts_afresh_after_a_pause(pause, kind):
    model = random_model(9, seed=4, sharpness=2, kind=kind, blank_bias=4)
    encoded, lengths = random_frames([60, 35], seed=4)
    settings = DecodeConfig(max_symbols=2, restart_s=pause * 0.04)
    found = greedy_search(model, encoded, lengths, settings)
    for hypothesis, frames, length in zip(found, encoded, lengths.tolist(), strict=True):
        tokens, times, score = spelled_out(model, frames[:length], 2, pause)
        assert (hypothesis.tokens, hypothesis.frames) == (tokens, times)
        assert hypothesis.score == pytest.approx(score, abs=1e-9)  # float64
    assert found != greedy_search(model, encoded, lengths, DecodeConfig(max_symbols=2))  # it made a difference
    pieces = GreedySearch(model, 2, settings)
    for start in range(0, 60, 7):
        pieces.feed(encoded[:, start : start + 7], (lengths - start).clamp(0, 7))
    assert [(h.tokens, h.frames) for h in pieces.results()] == [(h.tokens, h.frames) for h in found]


def test_a_frame_writes_at_most_max_symbols():
    model = random_model(9, seed=1, blank_bias=-50)
    encoded, lengths = random_frames([6], seed=1)
    assert greedy_search(model, encoded, lengths, DecodeConfig(max_symbols=3))[0].frames == [
        t for t in range(6) for _ in range(3)
    ]


def test_no_utterance():
    model = random_model(5, seed=1)
    assert greedy_search(model, torch.zeros(0, 0, 8).double(), torch.zeros(0, dtype=torch.int64), DecodeConfig()) == []
