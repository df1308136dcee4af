"""Language models in `residualformer.load`: run folder and exported one, whole and streamed, say the same with one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from support.commands import transcribe
from support.exported import RATE, exported, random_bundle, run_and_export, utterances

import residualformer
from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.schema import DecodeConfig
from residualformer.errors import UserError
from residualformer.export.language_model import language_model_graph
from residualformer.library.options import Options
from residualformer.lm.arpa import write_arpa
from residualformer.lm.estimate import estimate
from residualformer.nn.language_model import LanguageModel


def write_models(folder, pieces):
    """Write language models of tokens, of words and a network, all far from uniform."""
    rng = np.random.default_rng(0)
    tokens = [rng.choice(pieces[2:], rng.integers(1, 20)).tolist() for _ in range(30)]
    write_arpa(folder / "tokens.arpa", estimate(tokens, 3, pieces[1:]))
    words = [["ab", "a", "bad", "dab", "ace"][: 1 + n % 5] for n in range(10)]
    write_arpa(folder / "words.arpa", estimate(words, 2))
    torch.manual_seed(0)
    model = LanguageModel(len(pieces), LanguageModelConfig(kind="lstm", embedding_dim=5, hidden_dim=6)).eval()
    with torch.no_grad():
        model.output.weight.mul_(8)
    (folder / "lstm.onnx").write_bytes(language_model_graph(model, pieces).SerializeToString())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    bundle = random_bundle("transformer", "lstm", "sherpa")
    run_and_export(bundle, folder)
    write_models(folder, bundle.tokenizer.pieces)
    lm = replace(bundle.config.decode, kind="beam", beam=4, lm=str(folder / "tokens.arpa"), lm_weight=0.5)
    bundle.config = replace(bundle.config, decode=lm)
    exported(bundle, "nemo", folder / "with_lm")
    return folder


def known(texts):
    """An exported folder spells the unknown token as sherpa-onnx does."""
    return [text.replace("<UNK>", "<unk>") for text in texts]


@pytest.mark.parametrize("ilm_weight", [None, 0.3])
@pytest.mark.parametrize("lm", ["tokens.arpa", "words.arpa", "lstm.onnx"])
def test_run_and_export_say_the_same_whole_and_streamed(folder, lm, ilm_weight):
    options = {"beam": 4, "lm": folder / lm, "lm_weight": 0.5, "ilm_weight": ilm_weight}
    run, export = (residualformer.load(folder / name, **options) for name in ("run", "export"))
    streamed = residualformer.load(folder / "run", streaming=True, **options)
    plain = residualformer.load(folder / "run", beam=4)
    expected = list(run.transcribe_many(utterances(), RATE))
    assert [each.tokens for each in plain.transcribe_many(utterances(), RATE)] != [each.tokens for each in expected]
    for model in (export, streamed):
        for found, one in zip(model.transcribe_many(utterances(), RATE), expected, strict=True):
            assert (known(found.tokens), found.times) == (known(one.tokens), one.times)
            if found.tokens:  # a stream forgets a segment without any
                # sums of float32 log-probabilities
                assert (found.score, found.context) == pytest.approx((one.score, one.context), abs=5e-3)
                assert found.context != 0


def test_hotwords_and_a_language_model_add_up(folder):
    found = []
    for name in ("run", "export"):
        model = residualformer.load(folder / name, beam=4, lm=folder / "tokens.arpa")
        found.append(model.transcribe(utterances()[1], RATE, context=model.hotwords(["abc :3", "de :2"])))
    assert known(found[0].tokens) == known(found[1].tokens)
    assert found[0].context == pytest.approx(found[1].context, abs=5e-3)


def test_an_exported_folder_holds_its_language_model(folder, tmp_path):
    moved = shutil.copytree(folder / "with_lm", tmp_path / "moved")
    inside = residualformer.load(moved)
    given = residualformer.load(folder / "export", beam=4, lm=folder / "tokens.arpa", lm_weight=0.5)
    none = residualformer.load(folder / "export", beam=4)
    without = residualformer.load(moved, lm_weight=0)
    for samples in utterances():
        for one, other in ((inside, given), (without, none)):
            found, expected = one.transcribe(samples, RATE), other.transcribe(samples, RATE)
            assert (found.tokens, found.score, found.context) == (expected.tokens, expected.score, expected.context)
    assert residualformer.load(moved, greedy=True).transcribe(utterances()[1], RATE).context == 0
    (moved / "lm.arpa").unlink()
    with pytest.raises(UserError, match="lm.arpa is missing"):
        residualformer.load(moved)


def test_the_options_choose_a_language_model():
    beam = DecodeConfig()
    assert Options().with_language_model(beam) == beam
    assert Options(lm="a.arpa").with_language_model(beam) == DecodeConfig(lm="a.arpa")
    found = Options(lm="a.arpa", lm_weight=0.5, ilm_weight=0.1).with_language_model(beam)
    assert found == DecodeConfig(lm="a.arpa", lm_weight=0.5, ilm_weight=0.1)
    assert Options(lm_weight=0).with_language_model(found).lm is None
    assert Options(lm_weight=0.7).with_language_model(found).lm_weight == 0.7


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"greedy": True, "lm": "tokens.arpa"}, "lm needs beam search, and this one is greedy"),
        ({"streaming": True, "lm": "tokens.arpa"}, "lm needs beam search, and this one is greedy"),
        ({"beam": 4, "lm_weight": 0.5}, "lm_weight needs a language model"),
        ({"beam": 4, "ilm_weight": 0.5}, "ilm_weight needs a language model"),
        ({"beam": 4, "lm": "tokens.arpa", "lm_weight": -1}, "lm_weight is -1; give 0 or more"),
        ({"beam": 4, "lm": "tokens.arpa", "ilm_weight": float("nan")}, "ilm_weight is nan; give 0 or more"),
        ({"beam": 4, "lm": "tokens.arpa", "lm_weight": 0}, "without language model"),
        ({"beam": 4, "lm": "none.arpa"}, "none.arpa is missing"),
        ({"beam": 4, "lm": "run/model.safetensors"}, "no language model by its name"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["run", "export"])
def test_options_without_a_meaning_are_refused(folder, name, options, sentence):
    if "lm" in options:
        options = {**options, "lm": folder / options["lm"]}
    with pytest.raises(UserError, match=sentence):
        residualformer.load(folder / name, **options)


@pytest.mark.parametrize("name", ["run", "export"])
def test_the_command_takes_one(folder, tmp_path, capsys, name):
    soundfile.write(tmp_path / "a.wav", utterances()[1], RATE, subtype="FLOAT")
    options = ("--model", folder / name, tmp_path / "a.wav", "--json", "--beam", 4, "--lm", folder / "words.arpa")
    transcribe(*options, "--lm-weight", 0.5, "--ilm-weight", 0.2)
    written = json.loads(capsys.readouterr().out)
    model = residualformer.load(folder / name, beam=4, lm=folder / "words.arpa", lm_weight=0.5, ilm_weight=0.2)
    expected = model.transcribe(tmp_path / "a.wav")
    assert (written["tokens"], written["context"]) == (expected.tokens, expected.context)
    with pytest.raises(UserError, match="lm needs beam search"):
        transcribe("--model", folder / name, tmp_path / "a.wav", "--greedy", "--lm", folder / "words.arpa")
