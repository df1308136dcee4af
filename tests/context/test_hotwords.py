"""Hotwords against the definition of what a text earns, read anew for each text."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from support.plain_search import all_alignments
from support.torch_network import TorchNetwork, assert_equal, in_pieces
from support.transducers import BLANK, Oracle, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.context.hotwords import Hotwords, Phrase, TableScorer, read_phrase, read_phrases
from residualformer.context.phrases import PhraseMachine, as_read
from residualformer.context.scorer import Scorer
from residualformer.decode.beam import beam_search
from residualformer.decode.greedy import GreedySearch
from residualformer.errors import UserError
from residualformer.runtime.beam import BeamSearch
from residualformer.runtime.greedy import GreedySearch as RuntimeGreedy

PIECES = ["<blk>", "<unk>", "▁", "A", "B", "▁A", "AB", "▁BA", "BAB"]  # many ways to spell the same


def definition(text: str, scores: dict[str, float], ended: bool) -> float:
    """What `text` (spaces as ▁) earns: phrases of whole words from left to right, the longest of each place."""
    words = re.sub("▁+", "▁", "▁" + text).split("▁")[1:]
    open_ = not ended  # the last word may still go on
    earned, place = 0.0, 0
    while place < len(words):
        rest = "▁" + "▁".join(words[place:])
        shares = [s * (len(rest) - 1) / (len(p) - 1) for p, s in scores.items() if p.startswith(rest)]
        if open_ and (shares or rest == "▁"):
            return earned + max(shares, default=0)
        complete = words[place : len(words) - 1 if open_ else len(words)]
        for size in range(len(complete), 0, -1):
            if (score := scores.get("▁" + "▁".join(complete[:size]))) is not None:
                earned, place = earned + score, place + size
                break
        else:
            place += 1
    return earned


def total(scorer: Scorer, tokens: list[int], ended: bool = False) -> float:
    """What the scorer adds for the tokens, one after the other."""
    state, added = np.array([scorer.start()]), 0.0
    for token in tokens:
        added += float(scorer.scores(state)[0, token])
        state = scorer.advance(state, np.array([token]))
        scorer.keep(state)
    return added + (float(scorer.final(state)[0]) if ended else 0)


def spelled(tokens: list[int]) -> str:
    return "".join(PIECES[token].replace("<unk>", "?") for token in tokens)


def phrases_of(draw: random.Random) -> dict[str, float]:
    words = ["".join(draw.choices("AB", k=draw.randint(1, 3))) for _ in range(4)]
    texts = {" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(draw.randint(1, 6))}
    return {text: draw.choice([0.5, 1.0, 2.0]) for text in sorted(texts)}


@pytest.mark.parametrize("seed", range(40))
def test_any_tokens_earn_what_their_text_earns(seed):
    draw = random.Random(seed)
    phrases = phrases_of(draw)
    scorer = Hotwords([Phrase(text, score) for text, score in phrases.items()], PIECES, score=1.0).scorer()
    scores = {as_read(text): score * len(text) for text, score in phrases.items()}
    for _ in range(60):
        tokens = draw.choices(range(1, len(PIECES)), weights=[1, 9, 9, 9, 9, 9, 9, 9], k=draw.randint(0, 14))
        for ended in (False, True):
            # sums of float32 of about 10
            assert total(scorer, tokens, ended) == pytest.approx(definition(spelled(tokens), scores, ended), abs=1e-4)


def test_only_whole_words_earn():
    scorer = Hotwords([Phrase("AB"), Phrase("AB BA", 2.0)], PIECES, score=1.5).scorer()
    one, two = 1.5 * 2, 2.0 * 5
    a, b, space = (PIECES.index(piece) for piece in "AB▁")
    assert total(scorer, [a, b], ended=True) == pytest.approx(one)
    assert total(scorer, [space, a, b, space], ended=True) == pytest.approx(one)
    assert total(scorer, [a, b, space, b, a], ended=True) == pytest.approx(two)
    assert total(scorer, [a, b, space, b, b], ended=True) == pytest.approx(one)  # what was complete stays
    assert total(scorer, [a, b, a], ended=True) == 0 == total(scorer, [b, a, b], ended=True)
    assert total(scorer, [a]) > 0 and total(scorer, [a, a]) == pytest.approx(0)  # taken back at once
    assert total(scorer, [a], ended=True) == pytest.approx(0)


def test_scripts_without_spaces_match_anywhere():
    pieces = ["<blk>", "<unk>", *"面包店早上开门"]
    scorer = Hotwords([Phrase("早上")], pieces, score=1.0).scorer()
    tokens = [pieces.index(c) for c in "面包店早上开门"]
    assert total(scorer, tokens, ended=True) == pytest.approx(2)
    assert total(scorer, tokens[:4], ended=True) == pytest.approx(0)


def test_a_table_that_forgets_says_the_same():
    machine = PhraseMachine({as_read(text): 1.0 for text in ("AB BA", "ABBA", "B", "BAB AB")})
    large, small = TableScorer(machine, PIECES), TableScorer(machine, PIECES, most_values=2 * len(PIECES))
    states = np.arange(machine.num_nodes)
    for start in range(0, machine.num_nodes - 1):
        some = states[[start + 1, start]]
        np.testing.assert_array_equal(large.scores(some), small.scores(some))
        np.testing.assert_array_equal(large.advance(some, np.array([3, 5])), small.advance(some, np.array([3, 5])))


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_an_unpruned_search_with_hotwords_equals_the_enumeration(kind):
    pieces = ["<blk>", "<unk>", "▁A", "B"]
    model, (encoded, lengths) = random_model(4, seed=4, kind=kind), random_frames([3], seed=7)
    hotwords = Hotwords([Phrase("AB"), Phrase("A A")], pieces, score=1.5)
    settings = DecodeConfig(beam=1000, nbest=1000, max_symbols=1)
    (found,) = beam_search(model, encoded, lengths, settings, [hotwords.scorer()])
    expected = [
        (labels, score + total(hotwords.scorer(), list(labels), ended=True))
        for labels, score in all_alignments(Oracle(model, encoded[0]), 4, 1)
    ]
    assert {tuple(h.tokens) for h in found} == {labels for labels, _ in expected}
    by_labels = dict(expected)
    # float32 bonuses
    assert [h.score + h.context for h in found] == pytest.approx([by_labels[tuple(h.tokens)] for h in found], abs=1e-5)
    assert found == sorted(found, key=lambda h: -h.score - h.context)


@pytest.mark.parametrize("seed", range(8))
def test_torch_and_runtime_find_the_same_with_hotwords(seed):
    draw = random.Random(seed)
    model = random_model(len(PIECES), seed, sharpness=2.0, kind="stateless", blank_bias=draw.uniform(0, 3))
    lists = [[Phrase(text, score) for text, score in phrases_of(draw).items()] for _ in range(3)]
    scorers = [Hotwords(phrases, PIECES, 1.0).scorer() for phrases in lists]  # differ by stream
    encoded, lengths = random_frames([9, 6, 9], seed)
    network = TorchNetwork(model)
    frames, settings = network.project(encoded, lengths), DecodeConfig(beam=4, nbest=4, max_symbols=2)
    found = beam_search(model, encoded, lengths, settings, scorers)
    without = beam_search(model, encoded, lengths, settings)
    states = in_pieces(BeamSearch(network, BLANK, settings), frames, draw, scorers)
    for state, nbest, scorer in zip(states, found, scorers, strict=True):
        assert_equal(state.nbest(4, ended=True), nbest)
        assert [h.context for h in nbest] == pytest.approx([total(scorer, h.tokens, True) for h in nbest], abs=1e-4)
    assert found != without
    greedy = GreedySearch(model, 3, settings, scorers)
    greedy.feed(encoded, lengths)
    states = in_pieces(RuntimeGreedy(network, BLANK, settings), frames, draw, scorers)
    for state, nbest in zip(states, greedy.ended(), strict=True):
        assert_equal(state.nbest(ended=True), nbest)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ANN  ARBOR", Phrase("ANN ARBOR")),
        ("ANN ARBOR :2.5", Phrase("ANN ARBOR", 2.5)),
        ("A : B :1", Phrase("A : B", 1.0)),
        ("A:B", Phrase("A:B")),
    ],
)
def test_lines(line, expected):
    assert read_phrase(line) == expected


@pytest.mark.parametrize(
    "line", ["ANN :x", "ANN :0", "ANN :-1", "ANN :inf", "ANN :101", "ANN :nan", "ANN :", " :2", ""]
)
def test_lines_that_are_no_phrase_are_refused(line):
    with pytest.raises(UserError, match="write PHRASE"):
        read_phrase(line)


def test_a_file_names_the_line_that_is_wrong(tmp_path):
    (tmp_path / "list.txt").write_text("ANN\n\n BOB JONES :3 \nEVE :many\n")
    with pytest.raises(UserError, match=r"list.txt, line 4: 'EVE :many'.*'many'"):
        read_phrases(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("ANN\r\n\n BOB JONES :3 \n")
    assert read_phrases(tmp_path / "list.txt") == [Phrase("ANN"), Phrase("BOB JONES", 3.0)]


@pytest.mark.parametrize(
    ("text", "advice"),
    [("ab", "no 'a'. Did you mean 'AB'?"), ("ÄB", "no 'Ä'. Did you mean 'AB'?"), ("A1", "no '1'. It knows: A B")],
)
def test_characters_that_the_model_cannot_write_are_refused_by_name(text, advice):
    with pytest.raises(UserError) as error:
        Hotwords([Phrase("AB"), Phrase(text)], PIECES, 1.0)
    assert f"hotword '{text}': the model writes {advice}" in str(error.value)


def test_a_phrase_of_megabytes_is_refused():
    with pytest.raises(UserError, match="hotword 'aaaa.* has 1001 characters; allowed are 1000"):
        Hotwords([Phrase("a" * 1001)], ["<blk>", "<unk>", "a"], 0.5)


def test_a_list_without_phrases_is_refused():
    with pytest.raises(UserError, match="no hotwords"):
        Hotwords([], PIECES, 1.0)


def test_the_last_score_of_a_phrase_counts():
    assert Hotwords([Phrase("A"), Phrase("A", 3.0), Phrase("B")], PIECES, 1.0).describe() == {
        "hotwords": {"A": 3.0, "B": 1.0}
    }
