"""Settings of a search, the chunk-by-chunk encoder, and a set of cuts decoded into hyp.jsonl."""

import json
import math
import runpy
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from decode_models import save_random_run
from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter, SupervisionSegment

from residualformer.config.schema import Config, DecodeConfig
from residualformer.decode.corpus import batches, decode_cuts, read_cuts_with_features
from residualformer.decode.encode import encode, encode_chunks
from residualformer.decode.recognize import recognize, search, times_s
from residualformer.decode.settings import decode_settings, search_name, settings_for
from residualformer.errors import UserError
from residualformer.files import write_json
from residualformer.model.checkpoint import load_model

STEP = Path(__file__).parents[2] / "steps" / "decode.py"
FRAMES = {"u1": 131, "u2": 40, "u3": 3, "u4": 97}


def features_of(name: str) -> np.ndarray:
    return np.random.default_rng(FRAMES[name]).normal(-8, 3, (FRAMES[name], 80)).astype(np.float32)


def write_cuts(folder: Path, config: Config, translated: bool = False) -> Path:
    """cuts_test.jsonl.gz with stored features and features.json, as stage 2 leaves them."""
    cuts = []
    with NumpyFilesWriter(folder / "arrays") as writer:
        for name, frames in FRAMES.items():
            seconds = frames / 100
            features = Features(
                type="fbank", num_frames=frames, num_features=80, frame_shift=0.01, sampling_rate=16000, start=0,
                duration=seconds, storage_type=writer.name, storage_path=str(folder / "arrays"), channels=0,
                storage_key=writer.write(name, features_of(name)), recording_id=name,
            )  # fmt: skip
            custom = {"translation": "词"} if translated else None
            said = SupervisionSegment(name, name, 0, seconds, text=f"abc {name}", custom=custom)
            cuts.append(MonoCut(name, 0, seconds, 0, [said], features=features))
    CutSet.from_cuts(cuts).to_file(folder / "cuts_test.jsonl.gz")
    write_json(folder / "features.json", asdict(config.features))
    return folder / "cuts_test.jsonl.gz"


@pytest.fixture
def setup(tmp_path):
    config = save_random_run(tmp_path / "exp" / "model")
    return tmp_path / "exp" / "model", write_cuts(tmp_path / "fbank", config)


def test_streaming_equals_the_masked_pass(setup):
    model = load_model(setup[0]).model
    lengths = torch.tensor([FRAMES[name] for name in FRAMES])
    arrays = [torch.from_numpy(features_of(name)) for name in FRAMES]
    features = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
    whole, sizes, _ = encode(model, features, lengths)
    chunks, chunk_sizes, _ = encode(model, features, lengths, streaming=True)
    assert torch.equal(sizes, chunk_sizes) and whole.shape == chunks.shape
    for a, b, size in zip(whole, chunks, sizes, strict=True):
        torch.testing.assert_close(a[:size], b[:size], atol=1e-5, rtol=0)
    counted = sum(real for _, real, _ in encode_chunks(model, features, lengths))
    assert torch.equal(counted, sizes)


def test_long_audio_goes_chunk_by_chunk_because_a_full_mask_would_not_fit(setup, monkeypatch):
    model = load_model(setup[0]).model
    features, lengths = torch.randn(1, 6002, 80), torch.tensor([6002])
    whole = model.encoder(features, lengths)[0]
    monkeypatch.setattr(model.encoder, "forward", lambda *_: pytest.fail("the full pass was taken"))
    torch.testing.assert_close(encode(model, features, lengths)[0], whole, atol=1e-5, rtol=0)


def test_settings_come_from_the_model_and_take_overrides():
    config = Config(decode=DecodeConfig(beam=7))
    assert decode_settings(config, []) == config.decode
    changed = decode_settings(config, ["decode.kind=greedy", "decode.blank_penalty=0.5"])
    assert changed == DecodeConfig(kind="greedy", beam=7, blank_penalty=0.5)
    assert (search_name(config.decode), search_name(changed)) == ("beam7", "greedy")


def test_long_test_sets_are_searched_greedily_and_their_subsets_too():
    settings = DecodeConfig(greedy_sets=["test_long"])
    kinds = {name: settings_for(settings, name).kind for name in ("test", "test_long", "test_long@a", "test_longer")}
    assert kinds == {"test": "beam", "test_long": "greedy", "test_long@a": "greedy", "test_longer": "beam"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decode.bean=3", "Did you mean 'beam'"),
        ("decode.beam=many", "whole number"),
        ("decode.beam=0", "1 to 1000"),
        ("decode.kind=bean", "greedy, beam"),
        ("encoder.dim=8", "only takes keys of the section decode"),
        ("decode.beam", "such as decode.beam=16"),
        ("decode.beam=[", "not valid YAML"),
    ],
)
def test_wrong_overrides_are_refused(override, words):
    with pytest.raises(UserError, match=words):
        decode_settings(Config(), [override])


def test_batches_hold_every_cut_once_and_keep_to_the_limit(setup):
    bundle = load_model(setup[0])
    cuts = read_cuts_with_features(setup[1], bundle.config.features)
    for limit in (0.1, 1.5, 2.4, 100):
        groups = batches(cuts, limit)
        assert sorted(cut.id for group in groups for cut in group) == sorted(FRAMES)
        for group in groups:
            assert len(group) == 1 or len(group) * max(cut.duration for cut in group) <= limit


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_cuts_are_decoded_as_each_alone(setup, kind):
    bundle = load_model(setup[0])
    settings = DecodeConfig(kind=kind, beam=4, max_symbols=2)
    outcome = decode_cuts(bundle, settings, read_cuts_with_features(setup[1], bundle.config.features))
    assert [record["id"] for record in outcome.records] == list(FRAMES) and not outcome.skipped
    for record in outcome.records:
        best = recognize(bundle.model, settings, [features_of(record["id"])])[0].nbest[0]
        assert record["hyp"] == bundle.tokenizer.decode(best.tokens)
        assert record["times"] == times_s(best, bundle.model.encoder.stride)
        assert record["score"] == pytest.approx(best.score, abs=1e-3)  # batched float32 sums, then rounded
        assert record["ref"] == f"abc {record['id']}"
        assert record["nbest"][0] == {key: record[key] for key in ("hyp", "score", "tokens", "times")}
        scores = [entry["score"] for entry in record["nbest"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == (1 if kind == "greedy" else 4)


def test_features_that_are_all_unreadable_are_an_error(setup):
    bundle = load_model(setup[0])
    cuts = read_cuts_with_features(setup[1], bundle.config.features)
    shutil.rmtree(cuts[0].features.storage_path)
    with pytest.raises(UserError, match="none of the 4 utterances has features"):
        decode_cuts(bundle, DecodeConfig(kind="greedy"), cuts)


def test_an_unreadable_utterance_is_skipped_and_named(setup, capsys):
    bundle = load_model(setup[0])
    cuts = read_cuts_with_features(setup[1], bundle.config.features)
    broken = {cut.id: Path(cut.features.storage_path) / cut.features.storage_key for cut in cuts}
    broken["u2"].unlink()
    broken["u4"].write_bytes(b"no array")
    np.save(broken["u3"], np.full((3, 80), np.nan, dtype=np.float32))
    outcome = decode_cuts(bundle, DecodeConfig(kind="greedy"), cuts)
    assert [record["id"] for record in outcome.records] == ["u1"]
    assert {item["id"]: item["ref"] for item in outcome.skipped} == {n: f"abc {n}" for n in ("u2", "u3", "u4")}
    printed = capsys.readouterr().err
    for item in outcome.skipped:
        assert f"skipped {item['id']}, its features cannot be read ({item['reason']})" in printed


def decode_step(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["decode.py", *map(str, arguments)])
    runpy.run_path(str(STEP), run_name="__main__")


def test_the_step_writes_hypotheses_and_how_they_were_made(setup, monkeypatch, capsys):
    run, cuts = setup
    decode_step(monkeypatch, run, "--cuts", cuts, "--set", "decode.beam=3")
    options = ["--set", "decode.kind=greedy", "--streaming", "--limit", 2]
    decode_step(monkeypatch, run / "model.pt", "--cuts", cuts, *options)
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
    write_json(other / "features.json", asdict(Config().features) | {"preset": "kaldi"})
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


def test_a_translating_model_needs_translations(tmp_path):
    config = save_random_run(tmp_path / "model", target="translation")
    bundle = load_model(tmp_path / "model")
    plain = read_cuts_with_features(write_cuts(tmp_path / "a", config), config.features)
    with pytest.raises(UserError, match="u1 has no translation"):
        decode_cuts(bundle, DecodeConfig(kind="greedy"), plain)
    both = read_cuts_with_features(write_cuts(tmp_path / "b", config, translated=True), config.features)
    assert decode_cuts(bundle, DecodeConfig(kind="greedy"), both).records[0]["ref"] == "词"


def test_the_search_is_chosen_by_the_settings(setup):
    model = load_model(setup[0]).model
    encoded, lengths = torch.randn(2, 5, 8), torch.tensor([5, 2])
    assert [len(nbest) for nbest in search(model, encoded, lengths, DecodeConfig(kind="greedy"))] == [1, 1]
    assert [len(nbest) for nbest in search(model, encoded, lengths, DecodeConfig(nbest=3))] == [3, 3]
