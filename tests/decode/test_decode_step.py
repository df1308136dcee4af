"""Stage 7: what it writes, and what it refuses."""

import json
import math
from dataclasses import asdict

import pytest
from lhotse import CutSet, MonoCut
from support.commands import decode_step
from support.decoding import FRAMES, write_cuts

from residualformer.config.schema import Config
from residualformer.files import write_checked_json


def test_the_step_writes_hypotheses_and_how_they_were_made(setup, monkeypatch, capsys):
    run, cuts = setup
    decode_step(monkeypatch, run, "--cuts", cuts, "--set", "decode.beam=3")
    options = ["--set", "decode.kind=greedy", "--streaming", "--limit", 2]
    decode_step(monkeypatch, run / "model.safetensors", "--cuts", cuts, *options)
    assert "decode: 4 utterances" in capsys.readouterr().out
    folders = [run / "decode_test_beam3", run / "decode_test_greedy_streaming_first2"]
    for folder, count in zip(folders, (4, 2), strict=True):
        lines = [json.loads(line) for line in (folder / "hyp.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [line["id"] for line in lines] == list(FRAMES)[:count]
        summary = json.loads((folder / "decode.json").read_text(encoding="utf-8"))
        assert summary["utterances"] == count and summary["rtf"] > 0 and summary["skipped"] == []
        assert {"command", "commit", "hardware", "settings", "target"} <= set(summary)
    beam, streamed = (json.loads((folder / "hyp.jsonl").read_text().splitlines()[0]) for folder in folders)
    assert beam["ref_tokens"] == len("abc▁u1") and 0 < beam["ref_nats"] < math.inf
    assert streamed["ref_nats"] == pytest.approx(beam["ref_nats"], abs=0.01)  # float32, another order of summation


def test_the_step_searches_as_a_configuration_asks_that_changed_after_the_training(setup, monkeypatch, tmp_path):
    run, cuts = setup
    config = tmp_path / "changed.yaml"
    config.write_text("decode:\n  beam: 2\n  greedy_sets: [test]\n")
    decode_step(monkeypatch, run, "--cuts", cuts, "--config", config, "--out", tmp_path / "greedy")
    options = ["--config", config, "--set", "decode.greedy_sets=[]", "--set", "encoder.dim=144"]
    decode_step(monkeypatch, run, "--cuts", cuts, *options, "--out", tmp_path / "beam")
    searches = [json.loads((tmp_path / name / "decode.json").read_text())["search"] for name in ("greedy", "beam")]
    assert searches == ["greedy", "beam2"]


def test_what_the_step_refuses(setup, monkeypatch, tmp_path, capsys):
    run, cuts = setup
    bare = tmp_path / "cuts_bare.jsonl"
    CutSet.from_cuts([MonoCut("x", 0, 1, 0, [])]).to_file(bare)
    garbage = tmp_path / "cuts_bad.jsonl"
    garbage.write_text("no json\n")
    other = tmp_path / "other"
    write_cuts(other, Config())
    write_checked_json(other / "features.json", asdict(Config().features) | {"preset": "kaldi"})
    write_cuts(tmp_path / "alone", Config())
    (tmp_path / "alone" / "features.json").unlink()
    cases = {
        "is missing; train": (tmp_path / "nothing", cuts),
        "run stage 2 first": (run, tmp_path / "cuts_none.jsonl.gz"),
        "not a manifest": (run, garbage),
        "no features": (run, bare),
        "the model was trained on": (run, other / "cuts_test.jsonl.gz"),
        "features.json is missing": (run, tmp_path / "alone" / "cuts_test.jsonl.gz"),
    }
    for words, (model, file) in cases.items():
        with pytest.raises(SystemExit) as ended:
            decode_step(monkeypatch, model, "--cuts", file)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and words in error and "Traceback" not in error, error
    assert not list(run.glob("decode_*"))


def test_a_language_model_is_used_and_recorded(setup, monkeypatch, tmp_path, capsys):
    run, cuts = setup
    lm = tmp_path / "ngram.arpa"
    lm.write_text(
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-99 <s>\n-0.1 </s>\n-2 <unk>\n-0.7 a\n\n\\end\\\n", encoding="utf-8"
    )
    options = ["--cuts", cuts, "--set", "decode.beam=3", "--set", f"decode.lm={lm}", "--set", "decode.lm_weight=0.5"]
    decode_step(monkeypatch, run, *options)
    decode_step(monkeypatch, run, "--cuts", cuts, "--set", "decode.beam=3")
    plain, fused = run / "decode_test_beam3", run / "decode_test_beam3_ngram0.5"
    assert json.loads((fused / "decode.json").read_text())["context"]["ngram"]["weight"] == 0.5
    first, without = (json.loads((each / "hyp.jsonl").read_text().splitlines()[0]) for each in (fused, plain))
    assert first["context"] < 0 and "context" not in without
    for wrong, sentence in ((tmp_path / "none.arpa", "is missing"), (cuts, "no language model by its name")):
        with pytest.raises(SystemExit):
            decode_step(monkeypatch, run, "--cuts", cuts, "--set", f"decode.lm={wrong}")
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit):
        decode_step(monkeypatch, run, *options, "--set", "decode.kind=greedy")
    assert "decode.lm" in capsys.readouterr().err
