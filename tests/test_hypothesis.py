"""Pauses in label sequences, and what then stands between words."""

from __future__ import annotations

from residualformer.constants import SPACE
from residualformer.hypothesis import Hypothesis, pause_frames, separated, word_separator


def test_characters_have_a_separator_and_pieces_of_words_have_none():
    assert word_separator(["<blk>", "<unk>", "a", SPACE, "b"]) == 3
    assert word_separator(["<blk>", "<unk>", SPACE, f"{SPACE}the", "e"]) is None  # which begin words by themselves
    assert word_separator(["<blk>", "<unk>", "你", "好"]) is None


def test_seconds_are_encoder_frames():
    assert pause_frames(2.0, 4) == 50 and pause_frames(0.001, 4) == 1


def test_a_separator_stands_where_the_predictor_started_afresh():
    heard = Hypothesis([5, 6, 5, 3, 6, 5], [0, 4, 8, 8, 20, 24], -1.0)
    found = separated(heard, 3, 3)
    assert found.tokens == [5, 3, 6, 3, 5, 3, 6, 3, 5] and found.frames == [0, 4, 4, 8, 8, 8, 20, 24, 24]
    assert found.inserted == (1, 3, 7) and [found.tokens[place] for place in found.written] == heard.tokens
    assert separated(heard, 4, 3).tokens == heard.tokens  # the one long pause has its separator already
    assert separated(Hypothesis([5, 6], [0, 9], -1.0), 8, 3).tokens == [5, 3, 6]
    for pause, separator in ((0, 3), (3, None)):
        assert separated(heard, pause, separator) == heard
    assert separated(Hypothesis([], [], 0.0), 3, 3).tokens == []
