"""Words with times and confidences: the same from a trained model, whole and in pieces, and both runtimes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from support.commands import transcribe
from support.exported import RATE, by_runtime, exported, random_bundle, utterances
from support.loud_model import SPEECH, A, save_folder, sound

from residualformer.data.fbank import compute_fbank
from residualformer.decode.recognize import describe, recognize
from residualformer.errors import UserError
from residualformer.hypothesis import word_separator
from residualformer.library.torch_model import TorchModel
from residualformer.model.checkpoint import save_model
from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
from residualformer.words.calibration import Calibration, SearchCalibration
from residualformer.words.confidence import Logistic

CALIBRATION = Calibration(
    0.07, -0.05, SearchCalibration(Logistic(0.1, 0.8, 0), Logistic(0, 1, 0)),
    SearchCalibration(Logistic(-0.2, 0.5, 0.6), Logistic(0.1, 0.3, 0.9)), measured_on=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle():
    return replace(random_bundle("transformer", "lstm", "sherpa"), calibration=CALIBRATION)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    return exported(bundle, "nemo", tmp_path_factory.mktemp("words") / "export")


def assert_same(found: dict, expected: dict) -> None:
    """Equal words and tokens, with equal times and confidences but for rounding: sums of float32 of other orders."""
    assert [w["word"].lower() for w in found["words"]] == [w["word"].lower() for w in expected["words"]]
    for one, other in zip(found["words"], expected["words"], strict=True):
        assert [one["start"], one["end"]] == pytest.approx([other["start"], other["end"]], abs=0.011)
        assert one["confidence"] == pytest.approx(other["confidence"], abs=2e-3)
    assert found["confidence"] == pytest.approx(expected["confidence"], abs=2e-3)
    assert found["token_confidences"] == pytest.approx(expected["token_confidences"], abs=2e-3)


@pytest.mark.parametrize("restart_s", [0.0, 0.04])
@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_words_are_the_same_everywhere(bundle, folder, kind, restart_s, monkeypatch):
    monkeypatch.setattr(bundle.model, "separator", word_separator(bundle.tokenizer.pieces))  # as in a loaded model
    settings = replace(bundle.config.decode, kind=kind, beam=4, token_reward=0.1, restart_s=restart_s)
    signals = utterances()
    features = [compute_fbank(samples, bundle.config.features) for samples in signals]
    seconds = [len(samples) / RATE for samples in signals]
    whole = recognize(bundle.model, settings, features, align=True)
    expected = [describe(bundle, settings, each, s).to_dict() for each, s in zip(whole, seconds, strict=True)]
    assert sum(len(each["words"]) for each in expected) > 5
    assert any(each.nbest[0].inserted for each in whole) == (restart_s > 0)  # where the predictor has started afresh
    for x, s, each in zip(features, seconds, expected, strict=True):  # alone, without padding
        assert_same(
            describe(bundle, settings, recognize(bundle.model, settings, [x], align=True)[0], s).to_dict(), each
        )
    for model in (TorchModel(bundle), load_exported(folder), load_exported(folder, lean=True)):
        recognizer = Recognizer(model, settings, words=True)
        for stream, each in zip(by_runtime(recognizer, signals), expected, strict=True):
            segments = stream.pop_segments()
            assert_same(segments[0].to_dict() if segments else {"words": [], "confidence": None,
                        "token_confidences": []}, each)  # fmt: skip


def test_the_search_is_not_changed_by_looking_for_words(bundle, folder):
    settings = replace(bundle.config.decode, kind="beam", beam=4, nbest=2)
    features = [compute_fbank(samples, bundle.config.features) for samples in utterances()]
    plain = recognize(bundle.model, settings, features)
    aligned = recognize(bundle.model, settings, features, align=True)
    assert [each.nbest for each in plain] == [each.nbest[:2] for each in aligned]
    found = [by_runtime(Recognizer(folder, settings, words=words), utterances()) for words in (False, True)]
    results = [[[each.nbest for each in stream.pop_segments()] for stream in streams] for streams in found]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("loud") / "export")


def test_times_are_those_of_the_sound_and_within_segments(loud):
    recognizer = Recognizer(loud, endpoint_rules=ENDPOINT_RULES, words=True)
    signal = np.concatenate([SPEECH, sound((0, 2.0)), SPEECH])
    stream = by_runtime(recognizer, [signal])[0]
    segments = stream.pop_segments()
    starts = [word.start for segment in segments for word in segment.timed.words]
    again = len(SPEECH) / RATE + 2.0
    assert starts == pytest.approx([0.5, 1.0, 2.1, again + 0.5, again + 1.0, again + 2.1], abs=0.06)
    for segment in segments:
        assert all(segment.start <= w.start < w.end <= segment.end for w in segment.timed.words)
    assert stream.encoded == []  # of closed segments nothing is kept


def test_only_the_open_segment_is_kept(loud):
    recognizer = Recognizer(loud, endpoint_rules=ENDPOINT_RULES, words=True)
    stream, most = recognizer.create_stream(), 0
    for _ in range(30):
        stream.accept_waveform(np.concatenate([SPEECH, sound((0, 2.0))]))
        recognizer.decode([stream])
        most = max(most, len(stream.encoded))
    assert len(stream.pop_segments()) == 30
    assert most <= 25 * 7  # chunks of 40 ms of a segment, of 4.6 s here and of 20 s at most
    plain = Recognizer(loud).create_stream()
    plain.accept_waveform(SPEECH)
    Recognizer(loud).decode([plain])
    assert plain.encoded == []


@pytest.mark.parametrize("kind", ["json", "ctm", "srt", "vtt"])
def test_formats_of_both_kinds_of_models(bundle, folder, tmp_path, capsys, kind):
    soundfile.write(tmp_path / "a.wav", utterances()[1], RATE, subtype="FLOAT")
    save_model(tmp_path / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    outputs = []
    for options in (["--model", tmp_path / "model.safetensors"], ["--model", folder], ["--model", folder, "--lean"]):
        transcribe(*options, tmp_path / "a.wav", "--format", kind)
        outputs.append(capsys.readouterr())
    assert "is not calibrated" in outputs[0].err and outputs[1].err == outputs[2].err == ""
    if kind == "json":
        results = [json.loads(each.out) for each in outputs]
        assert_same(results[1], results[2])
        assert [w["word"] for w in results[0]["words"]] == [
            w["word"].replace("<UNK>", "<unk>") for w in results[1]["words"]
        ]
        assert " ".join(w["word"] for w in results[0]["words"]) == " ".join(results[0]["text"].split())
        assert len(results[0]["token_confidences"]) == len(results[0]["tokens"])
    else:
        lines = [each.out.splitlines() for each in outputs]
        assert len(lines[0]) > 1 and len(lines[1]) == len(lines[2])
        assert (lines[0][0] == "WEBVTT") == (kind == "vtt")


def test_what_has_no_place_in_a_format_is_refused(loud, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", sound((A, 0.5)), RATE)
    with pytest.raises(UserError, match="--partial does not go with --format srt"):
        transcribe("--model", loud, tmp_path / "a.wav", "--format", "srt", "--partial")
    with pytest.raises(UserError, match="--format vtt is of one recording, and 2 are given"):
        transcribe("--model", loud, tmp_path / "a.wav", tmp_path / "a.wav", "--format", "vtt")
    transcribe("--model", loud, tmp_path / "a.wav", tmp_path / "a.wav", "--format", "ctm")
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_translation_has_no_words(tmp_path, capsys):
    folder = save_folder(tmp_path / "export")
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8")) | {"target": "translation"}
    (folder / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    soundfile.write(tmp_path / "a.wav", SPEECH, RATE)
    transcribe("--model", folder, tmp_path / "a.wav", "--json")
    assert "words" not in json.loads(capsys.readouterr().out)
    with pytest.raises(UserError, match="those of a translation have none"):
        transcribe("--model", folder, tmp_path / "a.wav", "--format", "ctm")
    with pytest.raises(UserError, match="words of a translation have no times"):
        Recognizer(folder, words=True)
