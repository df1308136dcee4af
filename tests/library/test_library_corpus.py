"""Stage 7 with an exported folder: the records are what `residualformer.load` hears, and stage 8 scores them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jiwer
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from support.commands import decode_step
from support.export_models import config_of
from support.export_models import random_bundle as branched_bundle
from support.exported import exported, random_bundle, utterances

import residualformer
from residualformer.data.fbank import compute_fbank
from residualformer.decode.encode import encode
from residualformer.model.checkpoint import save_model
from residualformer.report.scoring import score_run

TEXTS = ["abc", "de abc", "", "a"]


@pytest.fixture
def recipe(tmp_path) -> tuple[Path, Path]:
    """A run folder with its export, and cuts with audio, one of which lacks its file."""
    bundle, run, data = random_bundle("transformer", "lstm", "sherpa"), tmp_path / "exp" / "toy", tmp_path / "data"
    run.mkdir(parents=True)
    save_model(run / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    exported(bundle, "nemo", run / "export", int8=True)
    data.mkdir()
    cuts = []
    for number, (samples, text) in enumerate(zip(utterances(), TEXTS, strict=True)):
        path = data / f"{number}.wav"
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        recording = Recording.from_file(path)
        said = SupervisionSegment(f"u{number}", recording.id, 0, recording.duration, text=text)
        cuts.append(MonoCut(f"u{number}", 0, recording.duration, 0, [said], recording=recording))
    gone = SupervisionSegment("gone", "gone", 0, 1, text="a b c")
    shutil.copy(data / "0.wav", data / "gone.wav")
    cuts.append(MonoCut("gone", 0, 1, 0, [gone], recording=Recording.from_file(data / "gone.wav")))
    (data / "gone.wav").unlink()
    CutSet.from_cuts(cuts).to_file(data / "cuts_test.jsonl.gz")
    return run, data / "cuts_test.jsonl.gz"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("search", [["decode.kind=greedy"], ["decode.kind=beam", "decode.beam=3", "decode.nbest=2"]])
def test_an_exported_folder_is_decoded_and_scored(recipe, monkeypatch, search, precision):
    run, cuts = recipe
    options = [word for each in search for word in ("--set", each)] + (["--int8"] if precision == "int8" else [])
    decode_step(monkeypatch, run / "export", "--cuts", cuts, *options)
    name = "greedy" if len(search) == 1 else "beam3"
    folder = run / f"decode_test_{name}_exported{'_int8' if precision == 'int8' else ''}"
    lines = [json.loads(line) for line in (folder / "hyp.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["u0", "u1", "u2", "u3"]
    model = residualformer.load(
        run / "export", int8=precision == "int8", **({"greedy": True} if len(search) == 1 else {"beam": 3})
    )
    for line, samples, text in zip(lines, utterances(), TEXTS, strict=True):
        heard = model.transcribe(samples, 16000)
        assert (line["hyp"], line["ref"], line["tokens"]) == (heard.text, text, heard.tokens)
        assert line["times"] == heard.times and line["words"] == [vars(word) for word in heard.words]
        if heard.text:
            assert line["score"] == pytest.approx(heard.score, abs=1e-3)  # streams together or alone: float32 sums
        assert len(line["nbest"]) == (min(len(search), 2) if heard.text else 0)
    scored = score_run(folder).row
    expected = 100 * jiwer.wer([*TEXTS[:2], TEXTS[3], "a b c"], [lines[n]["hyp"] for n in (0, 1, 3)] + [""])
    assert scored.missing == 1 and scored.decoding.streaming and scored.search_name.startswith(f"{name}_exported")
    assert scored.scores["wer"].value == pytest.approx(expected + 100 * len(lines[2]["hyp"].split()) / 7, abs=0.01)


def test_the_branches_of_an_exported_amnet_are_recorded_and_scored(recipe, monkeypatch):
    run, cuts = recipe
    bundle = branched_bundle(config_of("sparse branches"), seed=1)
    save_model(run / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, {})
    shutil.rmtree(run / "export")
    exported(bundle, "nemo", run / "export")
    decode_step(monkeypatch, run / "export", "--cuts", cuts, "--set", "decode.kind=greedy")
    folder = run / "decode_test_greedy_exported"
    lines = [json.loads(line) for line in (folder / "hyp.jsonl").read_text(encoding="utf-8").splitlines()]
    for line, samples in zip(lines, utterances(), strict=True):
        features = torch.from_numpy(compute_fbank(samples, bundle.config.features))[None]
        taken = encode(bundle.model, features, torch.tensor([features.size(1)])).branches
        assert line["branches"] == "".join(map(str, taken[0].tolist()))
    everything = "".join(line["branches"] for line in lines)
    shares = score_run(folder).row.amnet.shares
    assert shares == [round(everything.count(branch) / len(everything), 4) for branch in "01"] and 0 < shares[0] < 1


def test_an_exported_folder_decodes_with_a_grammar(recipe, monkeypatch, tmp_path):
    pytest.importorskip("kaldifst", reason="compiling grammars needs kaldifst")
    run, cuts = recipe
    (tmp_path / "g.txt").write_text("[<any>] <any>\n")
    options = ["--set", "decode.kind=beam", "--set", "decode.beam=3", "--grammar", tmp_path / "g.txt"]
    decode_step(monkeypatch, run / "export", "--cuts", cuts, *options)
    folder = run / "decode_test_beam3_exported_grammar"
    lines = [json.loads(line) for line in (folder / "hyp.jsonl").read_text(encoding="utf-8").splitlines()]
    model = residualformer.load(run / "export", beam=3)
    grammar = model.grammar(tmp_path / "g.txt")
    for line, samples in zip(lines, utterances(), strict=True):
        heard = model.transcribe(samples, 16000, context=grammar)
        verdict = heard.verdict.to_dict()
        assert line["hyp"] == heard.text and {key: line[key] for key in verdict} == verdict
        assert line["match"] == bool(line["hyp"]) == bool(line["nbest"])
    assert any(line["match"] for line in lines)


def test_what_the_step_refuses_of_an_export(recipe, monkeypatch, capsys, tmp_path):
    run, cuts = recipe
    bare = tmp_path / "cuts_bare.jsonl"
    CutSet.from_cuts([MonoCut("x", 0, 1, 0, [SupervisionSegment("x", "x", 0, 1, text="a")])]).to_file(bare)
    for words, arguments in {
        "have no audio, which an exported model hears": (run / "export", "--cuts", bare),
        "--int8 needs an exported folder": (run, "--cuts", cuts, "--int8"),
        "--lean needs an exported folder": (run, "--cuts", cuts, "--lean"),
        "runs on the CPU": (run / "export", "--cuts", cuts, "--device", "cuda"),
    }.items():
        with pytest.raises(SystemExit) as ended:
            decode_step(monkeypatch, *arguments)
        assert ended.value.code == 2 and words in capsys.readouterr().err
    assert not list(run.glob("decode_*"))
