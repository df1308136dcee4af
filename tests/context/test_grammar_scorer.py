"""Grammars over tokens: what the automaton accepts, its files, and what a constrained search finds."""

import json
import random

import numpy as np
import pytest
import torch
from support.grammars import LIGHTS, sentences, write_grammar
from support.torch_network import TorchNetwork, assert_equal, in_pieces
from support.transducers import random_frames, random_model

from residualformer.config.schema import DecodeConfig, TokenConfig
from residualformer.context.grammar.automaton import Automaton
from residualformer.context.grammar.compiled import Grammar, load_grammar
from residualformer.context.grammar.context import GrammarContext
from residualformer.context.grammar.source import read_source
from residualformer.context.pieces import Pieces
from residualformer.context.verdict import SILENCE, Heard, Verdict
from residualformer.data.tokenizer import train_tokenizer
from residualformer.decode.beam import beam_search
from residualformer.decode.likelihood import reference_nats
from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.runtime.beam import BeamSearch

pytest.importorskip("kaldifst", reason="compiling grammars needs kaldifst")
pytest.importorskip("num2words", reason="numbers in grammars need num2words")

TEXTS = [
    "please turn on the big lamp in the living room",
    "keep the lamp very dark",
    "make the hall dim",
    "from a to b",
]
TEXTS += ["spell the kitchen", "set it to one two three", "turn off the lamp", "zebra quick jumps over fox"]


def tokenizer(kind: str):
    return train_tokenizer(TEXTS, TokenConfig(kind=kind, vocab_size=70))


def accepted(automaton: Automaton) -> set[tuple[int, ...]]:
    """All label sequences of an automaton without circles."""
    found, stack = set(), [(0, ())]
    while stack:
        state, labels = stack.pop()
        if automaton.final[state]:
            found.add(labels)
        stack += [(target, (*labels, label)) for label, target in automaton.arcs(state)]
    return found


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_the_automaton_has_the_tokens_of_all_sentences_and_nothing_else(tmp_path, kind):
    tokens, path = tokenizer(kind), write_grammar(tmp_path, LIGHTS)
    grammar = load_grammar(path, tokens.pieces)
    expected = {tuple(tokens.encode(sentence)) for sentence in sentences(read_source(path))}
    assert accepted(grammar.automaton) == expected
    targets = [set(grammar.automaton.arcs(state)) for state in range(grammar.automaton.num_states)]
    # Minimal: states that end alike and go on alike are one; without circles a comparison of arcs tells.
    alike = {(bool(final), frozenset(arcs)) for final, arcs in zip(grammar.automaton.final, targets, strict=True)}
    assert len(alike) == grammar.automaton.num_states


@pytest.mark.parametrize("size", [40, 60, 90])
def test_words_have_the_tokens_that_sentencepiece_gives_them(size):
    tokens = train_tokenizer(TEXTS, TokenConfig(kind="bpe", vocab_size=size))
    draw, letters = random.Random(size), sorted(set("".join(TEXTS)) - {" "})
    words = {word for text in TEXTS for word in text.split()}
    words |= {"".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(2000)}
    pieces = Pieces(tokens.pieces)
    for word in sorted(words):
        assert pieces.encode(word, first=True) == pieces.encode(word, first=False) == tokens.encode(word)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_any_word_is_any_sequence_of_tokens_of_one_word(tmp_path, kind):
    tokens = tokenizer(kind)
    scorer = GrammarContext(load_grammar(write_grammar(tmp_path, "say <any> now\n<any>\n", "a.txt"), tokens.pieces), 1)
    letters = sorted(set("".join(TEXTS)) - {" "})
    draw = random.Random(1)
    for _ in range(300):
        text = " ".join("".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(draw.randint(0, 3)))
        text = draw.choice([text, f"say {text} now", f"say {text}"]) if text else ""
        words = text.split()
        in_grammar = len(words) == 1 or len(words) == 3 and (words[0], words[2]) == ("say", "now")
        assert follow(scorer.scorer(), tokens.encode(text)) == in_grammar


def follow(scorer, labels: list[int]) -> bool:
    """Whether a scorer allows each label and the end."""
    states = np.array([scorer.start()])
    for label in labels:
        if scorer.scores(states)[0, label] == -np.inf:
            return False
        states = scorer.advance(states, np.array([label]))
    return bool(scorer.final(states)[0] == 0)


def test_a_word_in_another_case_is_written_in_that_of_the_model(tmp_path):
    tokens = train_tokenizer([text.upper() for text in TEXTS], TokenConfig(kind="char"))
    grammar = load_grammar(write_grammar(tmp_path, LIGHTS), tokens.pieces)
    assert grammar.network.slots_of("SET IT TO TWO") == {"level": 2}
    with pytest.raises(UserError, match="the word 'WÄRE' has the character 'Ä', for which the model has no token"):
        load_grammar(write_grammar(tmp_path, "wäre\n", "a.txt"), tokens.pieces)


@pytest.fixture
def saved(tmp_path):
    tokens = tokenizer("bpe")
    grammar = load_grammar(write_grammar(tmp_path, LIGHTS), tokens.pieces)
    grammar.save(tmp_path / "lights.json")
    return grammar, tmp_path / "lights.json", tokens.pieces


def same(a: Grammar, b: Grammar) -> bool:
    return a.check_sum == b.check_sum and accepted(a.automaton) == accepted(b.automaton)


def test_a_compiled_grammar_is_read_without_kaldifst_and_is_the_same(saved, monkeypatch):
    grammar, path, pieces = saved
    monkeypatch.setitem(__import__("sys").modules, "kaldifst", None)
    found = load_grammar(path, pieces)
    assert same(grammar, found)
    assert found.network.slots_of("set it to two") == {"level": 2}


def test_a_compiled_grammar_of_other_tokens_or_damaged_is_refused(saved):
    _, path, pieces = saved
    with pytest.raises(UserError, match="is compiled for a model with other tokens"):
        load_grammar(path, pieces[:-1])
    text = path.read_text()
    path.write_text(text.replace("lamp", "limp", 1))
    with pytest.raises(UserError, match="is damaged"):
        load_grammar(path, pieces)
    value = json.loads(text)
    for key, other in [("words", []), ("automaton", []), ("network", ["x"] * 3), ("format", 0), ("vocab_size", 2)]:
        from residualformer.files import write_checked_json

        write_checked_json(path, {**{k: v for k, v in value.items() if k != "check"}, key: other})
        with pytest.raises(UserError, match="is no compiled grammar"):
            load_grammar(path, pieces)


def test_the_distance_decides_by_second_of_speech_and_is_what_is_shown(tmp_path):
    grammar = load_grammar(write_grammar(tmp_path, "say {what=any}\n", "a.txt"), tokenizer("char").pieces)
    free = Hypothesis([3, 3, 3], [10, 20, 59], -4.0)  # 50 frames of 40 ms: 2 s
    heard = Heard("say zebra", -12.001, free, 0.04)
    assert GrammarContext(grammar, 4.0).judge(heard) == Verdict(True, 4.0, {"what": "zebra"})  # 4.0005 is shown as 4
    assert GrammarContext(grammar, 3.999).judge(heard) == Verdict(False, 4.0, nearest="say zebra")
    short = heard._replace(free=free._replace(frames=[10, 10, 12]))  # 0.12 s count as 0.5 s
    assert GrammarContext(grammar, 99.0).judge(short).distance == 16.002
    other = GrammarContext(grammar, 99.0).judge(heard._replace(text="zebra"))
    assert other == Verdict(False, 4.0, nearest="zebra")
    for nothing in (SILENCE, heard._replace(score=None, text=""), heard._replace(text="", free=SILENCE.free)):
        assert GrammarContext(grammar, 99.0).judge(nothing) == Verdict(False, None)


SMALL = "sentences: ['a [b] {end}', 'b b']\nrules: {end: [c, c a, a b]}\n"


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_constrained_search_ranks_all_sentences_by_the_sum_over_their_alignments(tmp_path, seed):
    tokens = train_tokenizer(["a b c"], TokenConfig(kind="char"))
    path = write_grammar(tmp_path, SMALL)
    scorer = GrammarContext(load_grammar(path, tokens.pieces), 1.0).scorer()
    model, (encoded, lengths) = random_model(tokens.vocab_size, seed, sharpness=2.0), random_frames([7, 5], seed)
    all_sentences = sorted(sentences(read_source(path)))
    # The lattice of the loss has no limit of labels per frame; 9 is more than the longest sentence has.
    settings = DecodeConfig(beam=500, nbest=500, max_symbols=9)
    for n, found in enumerate(beam_search(model, encoded, lengths, settings, [scorer, scorer])):
        rows = encoded[n : n + 1].expand(len(all_sentences), -1, -1), lengths[n : n + 1].expand(len(all_sentences))
        nats = reference_nats(model, *rows, [tokens.encode(text) for text in all_sentences])
        expected = sorted(zip(nats, all_sentences, strict=True))
        assert [tokens.decode(h.tokens) for h in found] == [text for _, text in expected]
        # float32 in both, sums in another order
        assert [-h.score for h in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_torch_and_runtime_find_the_same(tmp_path, seed):
    tokens = train_tokenizer(["a b c"], TokenConfig(kind="char"))
    scorer = GrammarContext(load_grammar(write_grammar(tmp_path, SMALL), tokens.pieces), 1.0).scorer()
    model, (encoded, lengths) = random_model(tokens.vocab_size, seed, sharpness=2.0), random_frames([9, 4, 6], seed)
    settings = DecodeConfig(beam=4, nbest=4, max_symbols=2, token_reward=0.5)
    expected = beam_search(model, encoded, lengths, settings, [scorer] * 3)
    network = TorchNetwork(model)
    search = BeamSearch(network, 0, settings)
    states = in_pieces(search, network.project(encoded, lengths.tolist()), random.Random(seed), [scorer] * 3)
    for state, hypotheses in zip(states, expected, strict=True):
        assert_equal(state.nbest(4, ended=True), hypotheses)
    assert all(torch.isfinite(torch.tensor(h.score)) for each in expected for h in each)
