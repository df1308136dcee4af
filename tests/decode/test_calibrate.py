"""Calibration on a development set: the delays and weights that it finds, where it is kept, and who uses it."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from support.commands import decode_step
from support.decoding import FRAMES, features_of

from residualformer.config.schema import DecodeConfig
from residualformer.constants import SPACE
from residualformer.decode.calibrate import calibrate, ensure_calibrated, observe, speech_edges
from residualformer.decode.corpus import read_cuts_with_features
from residualformer.decode.recognize import recognize
from residualformer.errors import UserError
from residualformer.export.contracts import CONTRACTS
from residualformer.export.folder import encoder_graph, write_folder
from residualformer.model.checkpoint import load_model, save_model
from residualformer.runtime.settings import read_settings
from residualformer.words.calibration import UNCALIBRATED
from residualformer.words.words import Word, spans

GREEDY = DecodeConfig(kind="greedy")
SPACE_BIAS = 2.0  # with it greedy search writes words


@pytest.fixture
def worded(setup):
    """The run folder of a random model that writes letters as well as spaces, and its cuts."""
    run, cuts = setup
    bundle = load_model(run)
    with torch.no_grad():
        bundle.model.joiner.vocabulary.bias[bundle.tokenizer.pieces.index(SPACE)] -= SPACE_BIAS
    save_model(run / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    return run, cuts


def test_delays_are_medians_against_true_times(worded):
    bundle = load_model(worded[0])
    settings = replace(bundle.config.decode, kind="greedy")
    cuts, times, step = [], {}, 0.04
    for cut in read_cuts_with_features(worded[1], bundle.config.features):
        found = recognize(bundle.model, settings, [features_of(cut.id)], align=True)[0]
        words = spans([bundle.tokenizer.pieces[token] for token in found.nbest[0].tokens])
        said = [span.text if place % 2 == 0 else "zzz" for place, span in enumerate(words)]  # every second one is right
        cuts.append(replace(cut, supervisions=[replace(cut.supervisions[0], text=" ".join(said))]))
        frames = found.alignment.frames
        times[cut.id] = [
            Word(word, frames[span.first] * step - 0.3, (frames[span.last] + 1) * step + 0.2, 1.0)
            for word, span in zip(said, words, strict=True)
        ]
    found = calibrate(bundle, settings, cuts, times)
    assert (found.start_delay_s, found.end_delay_s) == (0.3, -0.2)
    seen = observe(bundle, settings, cuts)
    assert found.measured_on == len(seen.words) == seen.reference_words > 10
    assert 0.4 < np.mean([right for _, right in seen.words]) < 0.8


def test_without_a_word_there_is_nothing_to_calibrate_by(setup):
    bundle = load_model(setup[0])
    cuts = read_cuts_with_features(setup[1], bundle.config.features)
    with pytest.raises(UserError, match="no words were recognized in the 4 utterances"):
        calibrate(bundle, replace(GREEDY, blank_penalty=-1e3), cuts)


def test_stage_7_calibrates_once_by_the_dev_set(worded, monkeypatch):
    run, cuts = worded
    decode_step(monkeypatch, run, "--cuts", cuts, "--set", "decode.kind=greedy")
    assert not (run / "calibration.json").exists()  # there is no dev set
    shutil.copy(cuts, cuts.with_name("cuts_dev.jsonl.gz"))
    plain = (run / "decode_test_greedy/hyp.jsonl").read_text(encoding="utf-8")
    decode_step(monkeypatch, run, "--cuts", cuts, "--set", "decode.kind=greedy")
    calibrated = (run / "decode_test_greedy/hyp.jsonl").read_text(encoding="utf-8")
    for one, other in zip(plain.splitlines(), calibrated.splitlines(), strict=True):
        one, other = json.loads(one), json.loads(other)
        assert [w["word"] for w in one["words"]] == [w["word"] for w in other["words"]]
        assert {**one, "words": 0, "confidence": 0, "token_confidences": 0} == {
            **other, "words": 0, "confidence": 0, "token_confidences": 0
        }  # fmt: skip
    assert plain != calibrated
    made = (run / "calibration.json").read_bytes()
    bundle = load_model(run)
    assert bundle.calibration.measured_on > 0
    ensure_calibrated(bundle, run, GREEDY, cuts.with_name("missing"))
    assert (run / "calibration.json").read_bytes() == made
    ctm = [line.split(" ") for line in (run / "decode_test_greedy/hyp.ctm").read_text(encoding="utf-8").splitlines()]
    records = list(map(json.loads, calibrated.splitlines()))
    assert [row[4] for row in ctm] == [w["word"] for record in records for w in record["words"]]
    assert {row[0] for row in ctm} <= set(FRAMES) and all(len(row) == 6 for row in ctm)


def test_an_exported_folder_has_the_calibration(worded, tmp_path):
    run, cuts = worded
    shutil.copy(cuts, cuts.with_name("cuts_dev.jsonl.gz"))
    bundle = load_model(run)
    assert bundle.calibration == UNCALIBRATED
    ensure_calibrated(bundle, run / "model.safetensors", GREEDY, cuts.with_name("cuts_dev.jsonl.gz"))
    assert bundle.calibration.measured_on > 0
    (tmp_path / "export").mkdir()
    contract = CONTRACTS["nemo"](bundle.model, encoder_graph(bundle.model))
    write_folder(tmp_path / "export", "x", load_model(run), contract, "factored", int8=False)
    assert asdict(read_settings(tmp_path / "export").calibration) == asdict(bundle.calibration)


def test_edges_of_speech_are_found_by_its_loudness():
    rng = np.random.default_rng(0)
    x = rng.normal(-12, 0.5, (300, 80))
    x[100:220] = rng.normal(-4, 1.5, (120, 80))
    assert speech_edges(x) == (1.0, 2.2)
    assert speech_edges(np.full((10, 80), -8.0)) == (0.0, 0.1)
