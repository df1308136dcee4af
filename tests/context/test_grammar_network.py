"""What a grammar accepts, counts, draws and puts into slots."""

import pytest
from support.grammars import LIGHTS, sentences, write_grammar

from residualformer.context.grammar.network import Network, build, count_sentences
from residualformer.context.grammar.source import read_source

pytest.importorskip("num2words", reason="numbers in grammars need num2words")


def network(folder, text: str) -> Network:
    return build(read_source(write_grammar(folder, text)))


def test_it_accepts_its_sentences_and_no_sentence_that_differs_by_a_word(tmp_path):
    found, all_sentences = network(tmp_path, LIGHTS), sentences(read_source(tmp_path / "grammar.yaml"))
    words = sorted({word for sentence in all_sentences for word in sentence.split()})
    assert found.num_words == len(words)
    for sentence in sorted(all_sentences):
        said = sentence.split()
        others = [said[:i] + said[i + 1 :] for i in range(len(said))]
        others += [[*said[:i], word, *said[i + 1 :]] for i in range(len(said)) for word in [*words, "cellar"]]
        for other in [said, *others]:
            assert found.accepts(" ".join(other)) == (" ".join(other) in all_sentences)


def test_the_count_is_that_of_different_sentences(tmp_path):
    pytest.importorskip("kaldifst", reason="counting needs kaldifst")
    found = network(tmp_path, LIGHTS)
    assert count_sentences(found) == len(sentences(read_source(tmp_path / "grammar.yaml")))
    assert count_sentences(network(tmp_path, "sentences: ['[a] (a | a a)', a]\n")) == 3
    endless = "sentences: [<n>]\nrules:\n  n: {repeat: a, min: 0}\n"
    assert count_sentences(network(tmp_path, endless)) is None
    nested = "sentences: [<n>]\nrules:\n  m: {repeat: '[a]', min: 0}\n  n: {repeat: '[<m>]', min: 2}\n"
    assert count_sentences(network(tmp_path, nested)) is None


def test_samples_are_sentences_and_depend_on_the_seed_alone(tmp_path):
    found, all_sentences = network(tmp_path, LIGHTS), sentences(read_source(tmp_path / "grammar.yaml"))
    drawn = list(found.samples(300, seed=1))
    assert set(drawn) <= all_sentences
    assert len(set(drawn)) > 50
    assert list(found.samples(300, seed=1)) == drawn
    assert list(found.samples(300, seed=2)) != drawn


def test_slots_hold_what_was_said_and_numbers_their_value(tmp_path):
    found = network(tmp_path, LIGHTS)
    said = "please turn off the big lamp in the living room"
    assert found.slots_of(said) == {"state": "off", "device": "big lamp", "room": "living room"}
    assert found.slots_of("turn on the lamp") == {"state": "on", "device": "lamp"}
    assert found.slots_of("from hall to kitchen") == {"from": "hall", "to": "kitchen"}
    assert found.slots_of("set it to three") == {"level": 3}
    assert found.slots_of("spell b a b") == {"name": "b a b"}
    assert found.slots_of("turn on") is None


def test_a_slot_that_is_filled_twice_has_a_list_and_slots_nest(tmp_path):
    text = "sentences: ['buy {item} and {item}', '{all}']\nrules:\n  item: [milk, bread]\n  all: 'sell {item} [now]'\n"
    found = network(tmp_path, text)
    assert found.slots_of("buy bread and milk") == {"item": ["bread", "milk"]}
    assert found.slots_of("sell milk now") == {"item": "milk", "all": "sell milk now"}


def test_of_several_readings_the_first_in_the_grammar_counts(tmp_path):
    text = "sentences: ['call {first}', 'call {second}']\nrules:\n  second: [may]\n  first: [may]\n"
    assert network(tmp_path, text).slots_of("call may") == {"first": "may"}


def test_any_word_is_any_single_word(tmp_path):
    found = network(tmp_path, "sentences: ['say {what=any} [again]']\n")
    assert found.slots_of("say zebra again") == {"what": "zebra"}
    assert found.slots_of("say again") == {"what": "again"}
    assert not found.accepts("say") and not found.accepts("say two words")


def test_endless_repeats_accept_any_number(tmp_path):
    found = network(tmp_path, "sentences: ['<n> z']\nrules:\n  n: {repeat: 'a [b]', min: 2}\n")
    assert found.accepts("a a z") and found.accepts("a b a a b a z")
    assert not found.accepts("a z") and not found.accepts("a b z") and not found.accepts("a b b a z")
