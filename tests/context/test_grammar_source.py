"""Grammars as people write them: what is read, and the sentences about what is wrong."""

import re
from pathlib import Path

import pytest
from support.grammars import LIGHTS, sentences, sentences_of, write_grammar

from residualformer.context.grammar import source
from residualformer.context.grammar.network import build
from residualformer.context.grammar.source import read_source
from residualformer.errors import UserError

pytest.importorskip("num2words", reason="numbers in grammars need num2words")


def test_brackets_bars_rules_and_repeats_mean_what_the_manual_says(tmp_path):
    found = sentences_of(tmp_path, LIGHTS)
    assert {"turn on the lamp", "please turn off the big lamp in the living room", "dim lamp"} <= found
    assert {"keep big lamp very dark", "set it to two", "spell a b", "spell b b a", "from hall to kitchen"} <= found
    assert len(found) == 2 * 2 * 2 * 4 + 2 + 2 * 2 * 2 + 3 + (4 + 8) + 9
    assert not {"spell a", "turn the lamp", "please dim lamp", ""} & found


def test_plain_sentences_are_lines_and_comments_are_left_out(tmp_path):
    path = write_grammar(tmp_path, "# lights\nturn on\n\nturn [it] off  # or out\n", "lights.txt")
    assert sentences(read_source(path)) == {"turn on", "turn off", "turn it off"}


def test_scalars_that_yaml_takes_for_values_are_words(tmp_path):
    assert sentences_of(tmp_path, "sentences: [on, off, yes, no, 8, null, 1e3]\n") == set(
        "on off yes no 8 null 1e3".split()
    )


def test_numbers_are_written_in_words_and_follow_the_case_of_the_rest(tmp_path):
    text = "sentences: ['PAGE {page}']\nrules: {page: {range: [99, 101]}}\n"
    expected = {"PAGE NINETY NINE", "PAGE ONE HUNDRED", "PAGE ONE HUNDRED ONE", "PAGE ONE HUNDRED AND ONE"}
    assert sentences_of(tmp_path, text) == expected
    text = "sentences: ['page {page}']\nrules: {page: {range: [2, 10, 4], language: de, form: ordinal}}\n"
    assert sentences_of(tmp_path, text) == {"page zweite", "page sechste", "page zehnte"}


MISTAKES = {
    "sentences: ['turn on {devise}']\nrules:\n  device: [lamp]\n": (1, "no rule 'devise'. Did you mean 'device'"),
    "sentences:\n  - turn on\n  - turn (off\n": (3, "'(' is not closed: the sentence ends where ')' should be"),
    "sentences:\n  - turn on]\n": (2, "']' closes nothing"),
    "sentences:\n  - 'turn {8} on'\n": (2, "after '{' comes '8', not the name of a rule"),
    "sentences:\n  - 'turn {a=} on'\n": (2, "after '{' comes '}', not the name"),
    "sentences: [a]\nrule:\n  a: [b]\n": (2, "a grammar has no key 'rule'. Did you mean 'rules'"),
    "sentences: [a]\nrules:\n  a: [b]\n  a: [c]\n": (4, "'a' is given twice"),
    "sentences: [a]\nrules:\n  a:\n": (3, "there is no text"),
    "sentences: []\n": (1, "the list is empty"),
    "sentences: [[a, b]]\n": (1, "a list is within a list"),
    "rules:\n  a: [b]\n": (1, "the key sentences is missing"),
    "- turn on\n": (1, "a grammar is written as 'name: value'"),
    "sentences: [<n>]\nrules:\n  n: {range: [9, 1]}\n": (3, "range counts up, from 9 not to 1"),
    "sentences: [<n>]\nrules:\n  n: {range: [1, x]}\n": (3, "'x' is no whole number"),
    "sentences: [<n>]\nrules:\n  n: {range: [1, 2], langage: de}\n": (3, "has no key 'langage'. Did you mean 'lang"),
    "sentences: [<n>]\nrules:\n  n: {range: [1, 2], form: kardinal}\n": (3, "Did you mean 'cardinal'"),
    "sentences: [<n>]\nrules:\n  n: {range: [1, 2], language: xx}\n": (3, "language is 'xx'; allowed are am, ar"),
    "sentences: [<n>]\nrules:\n  n: {range: [1, 200001]}\n": (3, "has 200001 numbers; allowed are 100000"),
    f"sentences: [<n>]\nrules:\n  n: {{range: [0, {10**30}]}}\n": (3, f"has {10**30 + 1} numbers; allowed"),
    "sentences: [<n>]\nrules:\n  n: {repeat: a, min: 3, max: 2}\n": (3, "min is 3 and max 2; allowed"),
    "sentences: [<n>]\nrules:\n  n: {repeated: a}\n": (3, "the keys repeated make no rule"),
    f"sentences:\n  - a {'[a] ' * 1000}\n": (2, "has more than 1000 parts"),
    "sentences:\n  - {lamp} on\n": (2, "is not YAML .*: put a sentence that begins with"),
    "sentences: [<any>]\nrules:\n  any: [b]\n": (3, "the rule 'any' is given"),
    "sentences: [<a>]\nrules:\n  a: [x, <b>]\n  b: [y <c>]\n  c: <a> z\n": (5, "refers to itself (a -> b -> c -> a)"),
    "sentences: [<a>]\nrules:\n  a: a <a>\n": (3, "refers to itself (a -> a): repeat"),
    "": (None, "is empty"),
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: repr(text)[:60])
def test_a_mistake_is_told_in_a_sentence_with_its_line(tmp_path, text):
    line, sentence = MISTAKES[text]
    where = "" if line is None else f"line {line}"
    sentence = sentence if ".*" in sentence else re.escape(sentence)
    with pytest.raises(UserError, match=f"grammar.yaml.*{where}.*{sentence}"):
        read_source(write_grammar(tmp_path, text))


def chain(length: int) -> str:
    """Return a grammar in which each rule is the one before."""
    return "sentences: <r0>\nrules:\n" + "".join(f"  r{n}: <r{n + 1}>\n" for n in range(length)) + f"  r{length}: a\n"


@pytest.mark.parametrize("text", [f"sentences: '{'(' * 2000}'\n", "sentences: &a [{repeat: *a}]\n", chain(2000)])
def test_what_is_too_deep_is_told(tmp_path, text):
    with pytest.raises(UserError, match="parts lie too deep within each other"):
        build(read_source(write_grammar(tmp_path, text)))


def test_aliases_that_multiply_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MOST_VALUES", 1000)
    rules = "".join(f"  r{n}: &r{n} [{{repeat: *r{n - 1}}}, {{repeat: *r{n - 1}}}]\n" for n in range(1, 40))
    with pytest.raises(UserError, match="more than 1000 values: use fewer aliases"):
        read_source(write_grammar(tmp_path, f"sentences: [<r0>]\nrules:\n  r0: &r0 [a, b]\n{rules}"))


def test_nothing_that_comes_with_a_grammar_is_executed(tmp_path):
    text = f"sentences: [!!python/object/apply:pathlib.Path.touch [{tmp_path / 'made'}]]\n"
    with pytest.raises(UserError):
        read_source(write_grammar(tmp_path, text))
    assert not (tmp_path / "made").exists()


def test_a_missing_or_empty_file_is_told(tmp_path):
    with pytest.raises(UserError, match="missing.txt is missing"):
        read_source(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="holds no sentence"):
        read_source(write_grammar(tmp_path, "\n# nothing\n", "empty.txt"))


@pytest.mark.parametrize("path", sorted(Path("egs").glob("*/grammar.yaml")), ids=str)
def test_grammars_of_recipes_are_read(path):
    assert read_source(path).rules
