"""The exported folder: settings, metadata, tokens, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
from support.export_models import ENCODERS, config_of, contract_of, random_bundle

from residualformer.config.schema import FeatureConfig
from residualformer.data.tokenizer import Tokenizer
from residualformer.errors import UserError
from residualformer.export.contracts import EBranchformer, Nemo
from residualformer.export.folder import (
    choose_contract,
    encoder_graph,
    folder_ids,
    replacing_folder,
    sherpa_vocabulary,
    token_list,
    write_folder,
)
from residualformer.runtime.settings import read_settings

DTYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


def written(folder, encoder: str = "residual", kind: str = "nemo", int8: bool = True):
    """(content of model.json, the bundle) of a folder that is written to `folder`."""
    nemo = kind == "nemo"
    config = config_of(encoder, "lstm" if nemo else "three labels", preset="sherpa" if nemo else "kaldi")
    bundle = random_bundle(config)
    settings = write_folder(folder, "toy", bundle, contract_of(bundle.model, kind), "factored", int8)
    return settings, bundle


def sizes(entry) -> list:
    return [size if isinstance(size, int) else "N" for size in entry.shape]


@pytest.mark.parametrize("kind", ["nemo", "ebranchformer"])
@pytest.mark.parametrize("encoder", ["residual", "gru", "factorised branches"])
def test_settings_describe_the_files(tmp_path, encoder, kind):
    settings, bundle = written(tmp_path, encoder, kind)
    assert json.loads((tmp_path / "model.json").read_text()) == asdict(settings)
    assert read_settings(tmp_path) == settings
    assert settings.type == kind and settings.vocab_size == bundle.tokenizer.vocab_size
    for files in settings.files.values():
        sessions = {part: onnxruntime.InferenceSession(tmp_path / file) for part, file in asdict(files).items()}
        for part, states in asdict(settings.states).items():
            inputs, outputs = sessions[part].get_inputs(), sessions[part].get_outputs()
            for side, entries in (("input", inputs), ("output", outputs)):
                entries = entries[len(entries) - len(states) :]
                found = [(entry.name, entry.type, sizes(entry)) for entry in entries]
                assert found == [(state[side], DTYPES[state["dtype"]], state["shape"]) for state in states]
        frames = sessions["encoder"].get_outputs()[0].shape
        assert set(frames[1:]) == {settings.joint_dim, settings.frames_per_step}
        features = sessions["encoder"].get_inputs()[0].shape
        assert set(features[1:]) == {settings.window, settings.features.num_mel_bins}
        assert sizes(sessions["joiner"].get_outputs()[0]) == ["N", settings.vocab_size]


def metadata(folder, part: str) -> dict[str, str]:
    model = onnx.load(folder / f"{part}.onnx")
    assert model.ir_version <= 13 and [o.version for o in model.opset_import] == [17]  # what the wheel reads
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_metadata_of_nemo_are_complete_and_true(tmp_path, encoder):
    settings, bundle = written(tmp_path, encoder, int8=False)
    channel, time, _ = (state.shape for state in settings.states.encoder)
    expected = {f"cache_last_channel_dim{axis}": channel[axis] for axis in (1, 2, 3)}
    expected |= {f"cache_last_time_dim{axis}": time[axis] for axis in (1, 2, 3)}
    expected |= {
        "vocab_size": bundle.tokenizer.vocab_size - 1,
        "window_size": bundle.model.encoder.window,
        "chunk_shift": bundle.model.encoder.shift,
        "subsampling_factor": bundle.model.encoder.stride,
        "pred_rnn_layers": 2,
        "pred_hidden": 7,
    }
    found = metadata(tmp_path, "encoder")
    assert found.pop("normalize_type") == "" and found.pop("fingerprint") == settings.fingerprint
    assert {key: int(value) for key, value in found.items()} == expected
    assert all(value > 0 for value in expected.values())


def test_metadata_of_ebranchformer_say_the_shapes_of_its_states(tmp_path):
    settings, bundle = written(tmp_path, kind="ebranchformer", int8=False)
    found = metadata(tmp_path, "encoder")
    assert found.pop("model_type") == "ebranchformer" and found.pop("fingerprint") == settings.fingerprint
    m = {key: int(value) for key, value in found.items()}
    key, value, front, unused, processed = (state.shape for state in settings.states.encoder)
    assert key == value == ["N", m["num_heads"], m["left_context_len"], m["head_dim"]] and m["num_hidden_layers"] == 1
    assert front == ["N", m["intermediate_size"] // 2, m["csgu_kernel_size"] - 1]
    assert unused == ["N", 2 * m["hidden_size"], m["merge_conv_kernel"] - 1] and processed == ["N"]
    assert (m["T"], m["decode_chunk_len"]) == (bundle.model.encoder.window, bundle.model.encoder.shift)
    decoder = {"vocab_size": str(bundle.tokenizer.vocab_size), "context_size": "3"}
    assert metadata(tmp_path, "decoder") == decoder | {"fingerprint": settings.fingerprint}


def test_tokens_are_numbered_as_the_type_wants(tmp_path):
    settings, bundle = written(tmp_path, int8=False)
    pieces = bundle.tokenizer.pieces  # <blk> <unk> and characters
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{piece} {i}" for i, piece in enumerate(["<UNK>", *pieces[2:], "<blk>"])]
    assert (settings.blank_id, settings.unk_id) == (len(pieces) - 1, 0)
    assert folder_ids([0, 1, len(pieces) - 1], Nemo, len(pieces)) == [len(pieces) - 1, 0, len(pieces) - 2]
    assert token_list(bundle.tokenizer, EBranchformer) == ["<blk>", "<UNK>", *pieces[2:]]
    assert folder_ids([3, 0], EBranchformer, len(pieces)) == [3, 0]


def test_a_vocabulary_for_sherpa_prefers_few_tokens_and_those_learned_first():
    pieces = ["<blk>", "<unk>", "▁A", "NN", "▁", "A", "N"]
    lines = [line.split("\t") for line in sherpa_vocabulary(pieces).splitlines()]
    assert [piece for piece, _ in lines] == pieces
    scores = [float(score) for _, score in lines]
    assert scores == sorted(scores, reverse=True) and scores[2] + scores[3] > scores[4] + scores[5] + 2 * scores[6]


def test_a_token_with_white_space_is_refused():
    with pytest.raises(UserError, match="token 'a b' is empty or holds white space"):
        token_list(Tokenizer(["<blk>", "<unk>", "a b"]), Nemo)


@pytest.mark.parametrize(
    "predictor, preset, expected",
    [("lstm", "sherpa", Nemo), ("three labels", "kaldi", EBranchformer), ("three labels", "sherpa", Nemo)],
)
def test_the_type_follows_from_predictor_and_features(predictor, preset, expected):
    assert choose_contract(config_of(predictor=predictor, preset=preset)) is expected


@pytest.mark.parametrize(
    "kind, predictor, features, message",
    [
        ("nemmo", "lstm", FeatureConfig(), "--type nemmo is unknown; .* nemo, ebranchformer. Did you mean 'nemo'"),
        ("ebranchformer", "lstm", FeatureConfig("kaldi"), "no place for predictor.kind 'lstm': export it as nemo"),
        (None, "lstm", FeatureConfig("kaldi"), "on features.preset 'kaldi', .* train with features.preset sherpa"),
        ("ebranchformer", "three labels", FeatureConfig(), "'sherpa', .* of 'kaldi': export with --type nemo, or"),
        (None, "three labels", FeatureConfig("kaldi", 8000), "trained at 8000 Hz, .* train with .* 16000"),
        (None, "lstm", FeatureConfig("sherpa", 22050), "trained at 22050 Hz"),
    ],
)
def test_what_sherpa_onnx_would_not_serve_is_refused(kind, predictor, features, message):
    with pytest.raises(UserError, match=message):
        choose_contract(replace(config_of(predictor=predictor), features=features), kind)


def test_a_left_context_without_limit_is_refused():
    config = config_of()
    config = replace(config, encoder=replace(config.encoder, left_context_ms=None))
    with pytest.raises(UserError, match="encoder.left_context_ms is null"):
        encoder_graph(random_bundle(config).model)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    out = tmp_path / "export"
    with replacing_folder(out) as folder:
        (folder / "model.json").write_text("1")
        (folder / "left").touch()
    with pytest.raises(RuntimeError), replacing_folder(out) as folder:
        (folder / "model.json").write_text("2")
        raise RuntimeError
    assert (out / "model.json").read_text() == "1"
    with replacing_folder(out) as folder:
        (folder / "model.json").write_text("3")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("model.json", "3")]


def test_a_folder_of_something_else_stays(tmp_path):
    (tmp_path / "thesis").touch()
    for out in (tmp_path, tmp_path / "thesis"):
        with pytest.raises(UserError, match="is no exported model"), replacing_folder(out):
            raise AssertionError("it should not come so far")
    assert (tmp_path / "thesis").exists()


def test_the_folder_may_be_the_present_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with replacing_folder(Path(".")) as folder:
        (folder / "model.json").touch()
    assert (tmp_path / "here/model.json").is_file()
