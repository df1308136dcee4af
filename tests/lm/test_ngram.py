"""N-gram models: ARPA files, back-off, estimation."""

from __future__ import annotations

import gzip
import math
from itertools import product

import numpy as np
import pytest
from support.language_models import TRIGRAMS, reference

from residualformer.errors import UserError
from residualformer.lm.arpa import read_arpa, write_arpa
from residualformer.lm.estimate import estimate
from residualformer.lm.ngram import MISSING

WORDS = ["a", "b", "c", "zebra"]


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(TRIGRAMS, encoding="utf-8")
    return path


def state_after(model, words):
    state = np.array([model.first_state])
    for word in words:
        state = model.next_states(state, np.array([model.ids.get(word, model.unknown)]))
    return state


@pytest.mark.parametrize("length", range(4))
def test_probabilities_are_those_of_the_file(arpa, length):
    model = read_arpa(arpa)
    for words in product(WORDS, repeat=length):
        state = state_after(model, words)
        row = model.row(int(state[0]))
        for word in ["a", "b", "c", "</s>", "<unk>"]:
            expected = reference(TRIGRAMS, ["<s>", *words], word)
            # float64 sums of at most three terms
            assert model.log_probabilities(state, np.array([model.ids[word]]))[0] == pytest.approx(expected, abs=1e-12)
            assert row[model.ids[word]] == pytest.approx(expected, abs=1e-12)


def test_a_state_is_the_longest_history_that_matters(arpa):
    model = read_arpa(arpa)
    assert state_after(model, ["a", "b"]) == state_after(model, ["c", "a", "b"])  # a trigram model remembers two words
    assert state_after(model, ["c", "c"]) == state_after(model, ["c"])  # nothing begins with "c c"


def test_many_histories_at_once(arpa):
    model = read_arpa(arpa)
    states = np.concatenate([state_after(model, words) for words in product("abc", repeat=2)])
    words = np.array([model.ids[word] for word in "abcabcabc"])
    together = model.log_probabilities(states, words)
    alone = [model.log_probabilities(states[i : i + 1], words[i : i + 1])[0] for i in range(9)]
    assert together.tolist() == alone


def test_a_model_without_unknown_gives_it_what_kenlm_does(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-99 <s>\n-0.5 </s>\n-0.5 a\n\n\\end\\\n", encoding="utf-8")
    model = read_arpa(path)
    assert model.logp[model.unknown + 1] == MISSING == pytest.approx(-100 * math.log(10))


def test_gzipped(arpa, tmp_path):
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert read_arpa(packed).keys.tolist() == read_arpa(arpa).keys.tolist()


FAULTS = {
    "missing level": ("\\3-grams:\n-0.1\t<s> a b\n-0.35\ta b c\n", "", "none of 3"),
    "too few": ("ngram 2=5", "ngram 2=6", "has fewer"),
    "too many": ("ngram 2=5", "ngram 2=4", "more n-grams of 2 words"),
    "no end": ("\\end\\", "", "does not end"),
    "no number": ("-0.4\ta b", "x\ta b", "could not convert"),
    "not finite": ("-0.4\ta b", "nan\ta b", "line 16 has a number that is no logarithm"),
    "above one": ("-0.4\ta b", "0.4\ta b", "line 16 has a number that is no logarithm"),
    "twice": ("-0.7\tb a", "-0.7\ta b", "twice"),
    "a word twice": ("-0.6\tb\t", "-0.6\ta\t", "twice"),
    "no unigram": ("-0.7\tb a", "-0.7\tb x", "'x' is no unigram"),
    "no prefix": ("-0.1\t<s> a b", "-0.1\tc a b", "not its first 2 words"),
    "three words": ("-0.7\tb a", "-0.7\tb a c a", "line 17 has 5 values"),
    "no header": ("\\data\\", "data", "there is no line"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_told(arpa, fault):
    old, new, words = FAULTS[fault]
    assert old in TRIGRAMS
    arpa.write_text(TRIGRAMS.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_arpa(arpa)


def test_a_line_that_would_fill_the_memory_is_told(arpa, monkeypatch):
    monkeypatch.setattr("residualformer.lm.arpa.MAX_LINE", 12)
    with pytest.raises(UserError, match="line 7 has more than 12 bytes"):
        read_arpa(arpa)


def test_every_cut_file_is_told(arpa):
    content = arpa.read_bytes().rstrip()
    for end in range(len(content)):
        arpa.write_bytes(content[:end])
        with pytest.raises(UserError, match="is no ARPA file"):
            read_arpa(arpa)


def test_writing_and_reading(arpa, tmp_path):
    model = read_arpa(arpa)
    write_arpa(tmp_path / "again.arpa", model)
    again = read_arpa(tmp_path / "again.arpa")
    assert again.words == model.words
    assert again.keys.tolist() == model.keys.tolist()
    assert again.ends == model.ends
    np.testing.assert_allclose(again.logp, model.logp, rtol=1e-7)  # eight digits are written
    np.testing.assert_allclose(again.backoff, model.backoff, rtol=1e-7)


SENTENCES = [list("abab"), list("abc"), list("ba"), []]


def test_witten_bell_by_hand():
    """Counts are a 4, b 4, c 1, </s> 4, 13 in all: four different ones of the five that can follow."""
    model = estimate(SENTENCES, 2, ["a", "b", "c"])
    p = {word: (count + 4 / 5) / (13 + 4) for word, count in {"a": 4, "b": 4, "c": 1, "</s>": 4, "<unk>": 0}.items()}
    after_a = {"b": 3, "</s>": 1}  # T = 2
    ids = model.ids
    for word, value in p.items():
        at_a = math.log((after_a.get(word, 0) + 2 * value) / (4 + 2))
        found = model.log_probabilities(np.array([ids["a"] + 1]), np.array([ids[word]]))[0]
        assert found == pytest.approx(at_a, abs=1e-12)
        assert model.logp[ids[word] + 1] == pytest.approx(math.log(value), abs=1e-12)


@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one(order, min_count):
    rng = np.random.default_rng(0)
    sentences = [rng.choice(list("abcd"), rng.integers(0, 9)).tolist() for _ in range(40)]
    model = estimate(sentences, order, list("abcde"), min_count)
    for state in range(model.ends[-2] + 1):
        row = np.exp(model.row(state))
        row[model.start] = 0
        assert row.sum() == pytest.approx(1, abs=1e-12)


def test_a_text_without_sentences_is_refused():
    with pytest.raises(UserError, match="no text"):
        estimate([], 3)


def test_marks_of_sentences_in_a_text_are_unknown_words():
    model = estimate([["<s>", "a", "</s>"]], 2)
    assert model.words == ["<s>", "</s>", "<unk>", "a"]
    assert model.find(np.array([model.unknown + 1]), np.array([model.ids["a"]]))[0] > 0


def test_kenlm_agrees(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    rng = np.random.default_rng(1)
    sentences = [rng.choice(list("abcd"), rng.integers(0, 9)).tolist() for _ in range(60)]
    path = tmp_path / "lm.arpa"
    write_arpa(path, estimate(sentences, 4, list("abcde"), min_count=2))
    ours, theirs = read_arpa(path), kenlm.Model(str(path))
    for words in [*sentences, ["e", "zebra", "a"]]:
        state, total = np.array([ours.first_state]), 0.0
        for word in [*words, "</s>"]:
            number = np.array([ours.ids.get(word, ours.unknown)])
            total += ours.log_probabilities(state, number)[0]
            state = ours.next_states(state, number)
        # KenLM keeps float32: 1e-7 of at most some ten for each of ten words
        assert total / math.log(10) == pytest.approx(theirs.score(" ".join(words)), abs=1e-5)
