"""A set of cuts decoded into the records of hyp.jsonl."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.decoding import FRAMES, features_of, write_cuts
from support.transducers import save_random_run

from residualformer.config.schema import DecodeConfig
from residualformer.decode.corpus import batches, decode_cuts, read_cuts_with_features
from residualformer.decode.recognize import recognize, times_s
from residualformer.errors import UserError
from residualformer.model.checkpoint import load_model


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


def test_a_translating_model_needs_translations(tmp_path):
    config = save_random_run(tmp_path / "model", target="translation")
    bundle = load_model(tmp_path / "model")
    plain = read_cuts_with_features(write_cuts(tmp_path / "a", config), config.features)
    with pytest.raises(UserError, match="u1 has no translation"):
        decode_cuts(bundle, DecodeConfig(kind="greedy"), plain)
    both = read_cuts_with_features(write_cuts(tmp_path / "b", config, translated=True), config.features)
    assert decode_cuts(bundle, DecodeConfig(kind="greedy"), both).records[0]["ref"] == "词"
