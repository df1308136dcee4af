"""Language models as scorers: whatever the path of a search, the sum is the log-probability of the text."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from support.language_models import TRIGRAMS, reference

from residualformer.errors import UserError
from residualformer.lm.arpa import read_arpa
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.lm.scorers import TokenNGram, WordNGram
from residualformer.lm.weighted import Weighted

TOKENS = ["<blk>", "<unk>", "c", "b", "a"]  # in another order than the words of the model
SPELLING = ["<blk>", "<unk>", "▁a", "▁", "a", "b", "▁c", "▁a▁b"]  # words of several labels, and a label of two words


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(TRIGRAMS, encoding="utf-8")
    return path


def total(scorer, labels):
    """Return the sum of all that is added to labels, their end included."""
    state, score = np.array([scorer.start()]), 0.0
    for label in labels:
        scores = scorer.scores(state)
        assert scores.dtype == np.float32
        assert scores[0, 0] == 0
        score += scores[0, label]
        state = scorer.advance(state, np.array([label]))
        scorer.keep(state)
    return score + scorer.final(state)[0]


def expected(words):
    return sum(reference(TRIGRAMS, ["<s>", *words[:i]], word) for i, word in enumerate([*words, "</s>"]))


def test_tokens(arpa):
    scorer = load_language_model(arpa, TOKENS).scorer()
    assert isinstance(scorer, TokenNGram)
    for labels in product(range(1, 5), repeat=3):
        words = [TOKENS[label] for label in labels]
        assert total(scorer, labels) == pytest.approx(expected(words), abs=1e-5)  # float32 sums of four


def test_words_however_they_are_spelled(arpa):
    context = load_language_model(arpa, SPELLING)
    assert isinstance(context, WordNGram)
    rng = np.random.default_rng(0)
    for labels in rng.integers(1, 8, (60, 5)).tolist():
        words = "".join(SPELLING[label] for label in labels).replace("▁", " ").split()
        assert total(context.scorer(), labels) == pytest.approx(expected(words), abs=1e-5)  # float32 sums of six


def test_equal_label_sequences_have_equal_states(arpa):
    for pieces in (TOKENS, SPELLING):
        scorer = load_language_model(arpa, pieces).scorer()
        state = np.array([scorer.start()] * 2)
        for label in (4, 2, 4):
            state = scorer.advance(state, np.array([label] * 2))
            scorer.keep(state)
        assert state[0] == state[1]


def test_words_forget_what_is_not_kept(arpa):
    scorer = load_language_model(arpa, SPELLING).scorer()
    state = np.array([scorer.start()])
    for label in [2, 4, 5, 6] * 50:
        scorer.scores(state)
        state = scorer.advance(state, np.array([label]))
        scorer.keep(state)
    assert len(scorer._states) == len(scorer._numbers) == 2  # this one and the first


def test_many_states_at_once(arpa):
    for pieces in (TOKENS, SPELLING):
        scorer = load_language_model(arpa, pieces).scorer()
        labels = np.arange(1, len(pieces))
        states = scorer.advance(np.full(len(labels), scorer.start()), labels)
        alone = np.concatenate([scorer.scores(states[i : i + 1]) for i in range(len(labels))])
        np.testing.assert_array_equal(scorer.scores(states), alone)


def test_a_weight(arpa):
    plain, context = load_language_model(arpa, TOKENS), Weighted(load_language_model(arpa, TOKENS), 0.5)
    assert context.scorer() is context.scorer()  # streams share it
    assert total(context.scorer(), [4, 3, 2]) == pytest.approx(total(plain.scorer(), [4, 3, 2]) / 2, abs=1e-5)


def test_the_cache_of_rows_is_bounded(arpa):
    scorer = TokenNGram(read_arpa(arpa), TOKENS)
    scorer._most = 2
    for labels in product(range(1, 5), repeat=3):
        total(scorer, labels)
        assert len(scorer._rows) <= 2


def test_perplexity_by_hand(arpa):
    sentences = [[4, 3], [], [2, 2, 4, 3, 1]]
    found = perplexity(load_language_model(arpa, TOKENS), sentences, num_words=7)
    nats = -sum(expected([TOKENS[label] for label in labels]) for labels in sentences)
    assert found.nats == pytest.approx(nats, abs=1e-4)
    assert found.per_token == pytest.approx(np.exp(nats / 10), rel=1e-5)
    assert (found.sentences, found.tokens, found.words) == (3, 7, 7)


def test_another_script_is_refused(arpa):
    with pytest.raises(UserError, match="same script and case"):
        load_language_model(arpa, ["<blk>", "<unk>", "▁A", "B", "C"])


@pytest.mark.parametrize("name", ["lm.bin", "none.arpa"])
def test_a_wrong_file_is_refused(arpa, name):
    with pytest.raises(UserError, match="no language model by its name|is missing"):
        load_language_model(arpa.with_name(name), TOKENS)
