"""Grammars on the command line: the preview, compiled files, and transcription of runs and exported folders alike."""

import argparse
import json

import pytest
import soundfile
from support.commands import decode_step, transcribe
from support.decoding import write_cuts
from support.exported import random_bundle, run_and_export, utterances
from support.grammars import LIGHTS, write_grammar
from support.transducers import save_random_run

from residualformer.cli.grammar import add_arguments, run
from residualformer.config.schema import DecodeConfig
from residualformer.context.grammar.compiled import load_grammar
from residualformer.context.grammar.context import read_grammar
from residualformer.context.grammar.network import build
from residualformer.context.grammar.source import read_source
from residualformer.errors import UserError
from residualformer.model.checkpoint import load_model

pytest.importorskip("kaldifst", reason="compiling grammars needs kaldifst")
pytest.importorskip("num2words", reason="numbers in grammars need num2words")

ANYTHING = 10**6  # nats per second


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run and its export, and noise that its model writes letters of."""
    folder, bundle = tmp_path_factory.mktemp("grammar"), random_bundle("transformer", "lstm", "sherpa")
    run_and_export(bundle, folder)
    for n, signal in enumerate(utterances()[:2]):
        soundfile.write(folder / f"{n}.wav", signal, 16000, subtype="FLOAT")
    letters = "".join(piece for piece in bundle.tokenizer.pieces[2:] if len(piece) == 1 and piece.isalpha())
    write_grammar(folder, f"{letters[0]} {letters[1]}\n{letters[:3]}\n", "narrow.txt")
    return folder, write_grammar(
        folder, "sentences: ['{first=any} [{rest=words}]']\nrules:\n  words: {repeat: <any>}\n"
    )


def results(capsys, *arguments):
    transcribe(*arguments, "--json", "--beam", 3)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("reject", [0, ANYTHING])
def test_a_run_and_its_export_find_the_same_with_the_same_distance(models, capsys, reject):
    folder, wide = models
    for grammar in (wide, folder / "narrow.txt"):
        options = [folder / "0.wav", folder / "1.wav", "--grammar", grammar, "--reject", reject]
        trained = results(capsys, "--model", folder / "run", *options)
        streamed = results(capsys, "--model", folder / "run", *options, "--streaming")
        runtime = results(capsys, "--model", folder / "export", *options)
        for a, b in zip([*trained, *trained], [*streamed, *runtime], strict=True):
            same = ("text", "match", "slots", "nearest")
            assert {key: a.get(key) for key in same} == {key: b.get(key) for key in same}
            # sums of float32 log-probabilities in another order, over half a second or more
            assert a["distance"] == pytest.approx(b["distance"], abs=0.01)
            assert a["match"] == (a["distance"] <= reject) == bool(a["text"])
            assert a["match"] or a["nearest"] and (a["score"], a["words"], a["tokens"]) == (None, [], [])
            assert a["match"] or grammar != wide


def test_a_compiled_grammar_does_the_same(models, capsys, tmp_path):
    folder, grammar = models
    for model in (folder / "run", folder / "export"):
        command(grammar, "--model", model, "--out", tmp_path / "g.json")
        assert "states" in capsys.readouterr().out
        options = ["--model", model, folder / "0.wav", "--reject", ANYTHING, "--grammar"]
        found = results(capsys, *options, tmp_path / "g.json")
        expected = results(capsys, *options, grammar)
        assert [each["text"] for each in found] == [each["text"] for each in expected]


def test_no_match_is_said_in_text(models, capsys):
    folder, _ = models
    options = ["--grammar", write_grammar(folder, "a b c d e " * 50, "long.txt"), "--beam", 3]
    transcribe("--model", folder / "export", folder / "0.wav", *options)
    assert capsys.readouterr().out == f"{folder / '0.wav'}\tno match\n"


def test_what_does_not_go_with_a_grammar_is_refused(models):
    folder, grammar = models
    for model in (folder / "run", folder / "export"):
        with pytest.raises(UserError, match="a grammar needs beam search"):
            transcribe("--model", model, folder / "0.wav", "--grammar", grammar, "--greedy")
        with pytest.raises(UserError, match="--reject 3.0 belongs to a grammar"):
            transcribe("--model", model, folder / "0.wav", "--reject", 3)
        with pytest.raises(UserError, match="reject is -1.0; give a number"):
            transcribe("--model", model, folder / "0.wav", "--grammar", grammar, "--reject", -1, "--beam", 3)
    with pytest.raises(UserError, match="a grammar needs beam search"):
        transcribe("--model", folder / "run", folder / "0.wav", "--grammar", grammar, "--streaming")


def test_stage_7_keeps_apart_what_was_decoded_with_a_grammar(tmp_path, monkeypatch):
    cuts = write_cuts(tmp_path / "fbank", save_random_run(tmp_path / "run"))
    path = write_grammar(tmp_path, "a\nab ba\nc d\n", "g.txt")
    decode_step(monkeypatch, tmp_path / "run", "--cuts", cuts, "--set", "decode.beam=3", "--grammar", path, "--jobs", 2)
    out = tmp_path / "run" / "decode_test_beam3_grammar"
    assert json.loads((out / "decode.json").read_text())["context"]["grammar"]["reject"] == 4.0
    for record in map(json.loads, (out / "hyp.jsonl").read_text().splitlines()):
        assert record["hyp"] in ("a", "ab ba", "c d", "")
        assert record["match"] == bool(record["hyp"]) == (record["distance"] is not None and record["distance"] <= 4)


def test_a_grammar_is_tuned_on_what_stage_7_wrote(tmp_path, monkeypatch, capsys):
    run = save_random_run(tmp_path / "run")
    cuts = write_cuts(tmp_path / "fbank", run)
    path = write_grammar(tmp_path, "a\nab ba\nc d\n", "g.txt")
    decode_step(monkeypatch, tmp_path / "run", "--cuts", cuts, "--set", "decode.beam=3", "--grammar", path)
    hyp, out = tmp_path / "run" / "decode_test_beam3_grammar" / "hyp.jsonl", tmp_path / "g.json"
    pieces = load_model(tmp_path / "run").tokenizer.pieces
    with pytest.raises(UserError, match="the grammar has none of the"):
        command(path, "--model", tmp_path / "run", "--out", out, "--tune", hyp)
    records = [json.loads(line) for line in hyp.read_text().splitlines()]
    for record, text in zip(records, ["a", "ab ba", "b"], strict=False):
        record["ref"] = text
    hyp.write_text("".join(json.dumps(record) + "\n" for record in records))
    capsys.readouterr()
    command(path, "--model", tmp_path / "run", "--out", out, "--tune", hyp, "--false-rejects", 0)
    largest = max(0.0, *(record["distance"] for record in records[:2]))
    accepted = sum(record["distance"] is not None and record["distance"] <= largest for record in records[2:])
    assert f"this refuses 0 of 2 sentences of the grammar and accepts {accepted} of {len(records) - 2} others" in (
        capsys.readouterr().out
    )
    grammar = load_grammar(out, pieces)
    assert grammar.reject == largest and grammar.check_sum == load_grammar(path, pieces).check_sum
    beam = DecodeConfig(kind="beam")
    assert read_grammar(out, pieces, beam).reject == largest
    assert (read_grammar(out, pieces, beam, 2.0).reject, read_grammar(path, pieces, beam).reject) == (2.0, beam.reject)
    for lost in (1, 2):  # sentences that were not recognized at all are refused, whatever the distance
        lines = [json.dumps(record | ({"distance": None} if n < lost else {})) for n, record in enumerate(records)]
        hyp.write_text("\n".join(lines))
        command(path, "--model", tmp_path / "run", "--out", out, "--tune", hyp, "--false-rejects", 0)
        assert f"refuses {lost} of 2 sentences" in capsys.readouterr().out
    command("--model", tmp_path / "run", "--out", out, write_grammar(tmp_path, "a\nb\n", "other.txt"))
    with pytest.raises(UserError, match="was not decoded with this grammar"):
        command(tmp_path / "other.txt", "--model", tmp_path / "run", "--out", out, "--tune", hyp)


def command(*arguments) -> None:
    """Run `residualformer grammar` with `arguments`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_preview_counts_and_draws_sentences(tmp_path, capsys):
    path = write_grammar(tmp_path, LIGHTS)
    command(path, "--samples", 3)
    first, *drawn = capsys.readouterr().out.splitlines()
    size, length = first.split("; ")
    assert size == f"{path}: 66 sentences, 27 words, 7 slots" and len(drawn) == 3
    mean = sum(len(sentence.split()) for sentence in build(read_source(path)).samples(1000, seed=1)) / 1000
    assert length == f"a random sentence has {mean:.1f} words, about {mean / 2.5:.1f} s of speech"
    command(path, "--samples", 3)
    assert capsys.readouterr().out.splitlines()[1:] == drawn
    with pytest.raises(UserError, match="--samples is -1"):
        command(path, "--samples", -1)


def test_sentences_are_explained(tmp_path, capsys):
    path = write_grammar(tmp_path, LIGHTS)
    command(path, "--accepts", "set it to two")
    assert capsys.readouterr().out == 'set it to two\t{"level": 2}\n'
    with pytest.raises(SystemExit) as ended:
        command(path, "--accepts", "set it", "--accepts", "dim lamp")
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines() == ["set it\tnot in the grammar", 'dim lamp\t{"device": "lamp"}']


def test_options_that_belong_together_are_asked_for(tmp_path):
    path = write_grammar(tmp_path, LIGHTS)
    with pytest.raises(UserError, match="--model and --out belong together"):
        command(path, "--out", "x.json")
    with pytest.raises(UserError, match="--tune is kept in a compiled grammar"):
        command(path, "--tune", "hyp.jsonl")
    with pytest.raises(UserError, match="--false-rejects 0.1 belongs to --tune"):
        command(path, "--false-rejects", 0.1)
    tuned = ["--tune", "hyp.jsonl", "--model", "run", "--out", "x.json"]
    with pytest.raises(UserError, match="--false-rejects is 1.0; give a share from 0 to below 1"):
        command(path, *tuned, "--false-rejects", 1)
    with pytest.raises(UserError, match="x.json is a compiled grammar by its name: give the file"):
        command("x.json")
    with pytest.raises(UserError, match="does not end in .json"):
        command(path, "--out", "x.bin", "--model", "run")
