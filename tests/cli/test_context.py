"""Hotwords on the command line: with a run folder, its export, and stage 7."""

import json

import pytest
import soundfile
from support.commands import decode_step, transcribe
from support.decoding import write_cuts
from support.exported import RATE, random_bundle, run_and_export, utterances
from support.transducers import save_random_run

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import training_order
from residualformer.errors import UserError
from residualformer.files import write_text
from residualformer.runtime import Recognizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run and its export of type nemo, whose blank comes last, and an utterance."""
    folder = tmp_path_factory.mktemp("context")
    bundle = random_bundle("transformer", "lstm", "sherpa")
    run_and_export(bundle, folder)
    soundfile.write(folder / "speech.wav", utterances()[1], RATE)
    write_text(folder / "words.txt", "dab :3\nbead\n")
    return folder


def said(capsys, folder, model: str, *options) -> dict:
    transcribe("--model", folder / model, folder / "speech.wav", "--json", *options)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("search", [["--greedy"], ["--beam", 4]], ids=["greedy", "beam"])
def test_a_run_and_its_export_hear_the_same_with_hotwords(folder, capsys, search):
    options = [*search, "--hotwords", folder / "words.txt", "--hotword", "cab :4"]
    found = [said(capsys, folder, model, *options) for model in ("run", "export")]
    plain = said(capsys, folder, "run", *search)
    assert found[0]["text"] == found[1]["text"].replace("<UNK>", "<unk>") != plain["text"]
    assert found[0]["score"] == pytest.approx(found[1]["score"], abs=0.01)  # float32, onnxruntime and torch
    assert found[0]["context"] == found[1]["context"] > 0  # tokens' characters, counted
    assert found[0]["score"] < plain["score"] and "context" not in plain


def test_streaming_equals_the_whole_with_hotwords(folder, capsys):
    options = ["--hotword", "cab :4"]
    whole, streamed = (said(capsys, folder, "run", option, *options) for option in ("--greedy", "--streaming"))
    assert whole["text"] == streamed["text"]


@pytest.mark.parametrize("model", ["run", "export"])
def test_words_that_the_model_cannot_write_are_refused(folder, model):
    with pytest.raises(UserError, match="hotword 'Cab': the model writes no 'C'. Did you mean 'cab'"):
        transcribe("--model", folder / model, folder / "speech.wav", "--hotword", "Cab")
    with pytest.raises(UserError, match="--hotword 'cab :much': the score 'much'"):
        transcribe("--model", folder / model, folder / "speech.wav", "--hotword", "cab :much")
    with pytest.raises(UserError, match=r"none\.txt"):
        transcribe("--model", folder / model, folder / "speech.wav", "--hotwords", folder / "none.txt")


def test_streams_of_one_recognizer_have_their_own_hotwords(folder):
    recognizer = Recognizer(folder / "export", DecodeConfig(beam=4))
    contexts = [None, recognizer.hotwords(["cab :4"]), recognizer.hotwords(["dab :3", "bead"])]
    alone = []
    for context in contexts:
        stream = recognizer.create_stream(context)
        stream.accept_waveform(utterances()[1])
        stream.finish()
        recognizer.decode([stream])
        alone.append(stream.pop_segments()[0].text)
    assert len(set(alone)) == 3
    streams = [recognizer.create_stream(context) for context in contexts]
    for start in range(0, len(utterances()[1]), 4000):
        for stream in streams:
            stream.accept_waveform(utterances()[1][start : start + 4000])
        recognizer.decode(streams)
    for stream in streams:
        stream.finish()
    recognizer.decode(streams)
    assert [stream.pop_segments()[0].text for stream in streams] == alone


def test_stage_7_keeps_apart_what_was_decoded_with_hotwords(tmp_path, monkeypatch, capsys):
    config = save_random_run(tmp_path / "run")
    cuts = write_cuts(tmp_path / "fbank", config)
    beam = ["--cuts", cuts, "--set", "decode.beam=3"]
    decode_step(monkeypatch, tmp_path / "run", *beam)
    decode_step(monkeypatch, tmp_path / "run", *beam, "--hotword", "ed :12", "--jobs", 2)
    summary = json.loads((tmp_path / "run" / "decode_test_beam3_hotwords" / "decode.json").read_text())
    assert summary["context"] == {"hotwords": {"ed": 12.0}}
    plain, helped = (
        (tmp_path / "run" / f"decode_test_beam3{end}" / "hyp.jsonl").read_text() for end in ("", "_hotwords")
    )
    assert plain.count("ed") < helped.count("ed") and '"context"' in helped and '"context"' not in plain


def test_pieces_in_the_order_of_training():
    assert training_order(["<UNK>", "a", "b", "<blk>"], blank=3) == ["<blk>", "<UNK>", "a", "b"]
    assert training_order(["<blk>", "<UNK>", "a"], blank=0) == ["<blk>", "<UNK>", "a"]
