"""Warm starts onto other tokens: which rows are copied, which are fresh, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.toy_training import CONFIG, TEXTS, TOKENIZER, F, changed, write_toy_data

from residualformer.config.schema import TokenConfig
from residualformer.data.tokenizer import train_tokenizer
from residualformer.errors import UserError
from residualformer.model import checkpoint
from residualformer.nn.transducer import build_model
from residualformer.train import setup
from residualformer.train.ranks import Ranks
from residualformer.train.warm_start import shared_tokens, warm_start

OTHER = train_tokenizer(["go home q", "twelve"], TokenConfig("char"))  # in another case, with letters of its own
PIECES = train_tokenizer(TEXTS, TokenConfig("bpe", 30))
ADDITIVE = changed("loss", changed("joiner", kind="additive"), kind="simple")
CHAR = dataclasses.replace(CONFIG, tokens=TokenConfig("char"))
EXACT = changed("loss", kind="exact", ctc_scale=0.0)


def test_tokens_are_shared_by_their_text_or_in_another_case():
    found = shared_tokens(["<blk>", "<unk>", "A", "b", "▁TH"], ["<blk>", "<unk>", "B", "a", "A", "x", "▁th"])
    assert (found.new, found.old, found.new_size, found.old_size) == ([0, 1, 2, 3, 4, 6], [0, 1, 3, 2, 2, 4], 7, 5)
    assert str(found) == "6 of 7 tokens are those of the source"
    assert shared_tokens(TOKENIZER.pieces, TOKENIZER.pieces) is shared_tokens(None, TOKENIZER.pieces) is None


@pytest.mark.parametrize("config", [CONFIG, ADDITIVE], ids=["tanh", "additive"])
@pytest.mark.parametrize("tokenizer", [OTHER, PIECES], ids=["char", "bpe"])
def test_rows_of_shared_tokens_are_copied_and_all_else_stays_as_it_is_built(config, tokenizer):
    source = build_model(config, TOKENIZER.vocab_size)
    target = build_model(config, tokenizer.vocab_size)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    shared = shared_tokens(TOKENIZER.pieces, tokenizer.pieces)
    report = warm_start(target, source.state_dict(), "there", shared)
    assert {"predictor.embedding.table.weight", "training_only.ctc.bias"} < set(report.in_part)
    assert {*report.mapped, *report.in_part} == fresh.keys() and not (report.fresh or report.converted)
    assert 2 < len(shared.new) < tokenizer.vocab_size
    others = [row for row in range(tokenizer.vocab_size) if row not in shared.new]
    for name, tensor in target.state_dict().items():
        if name in report.in_part:
            assert torch.equal(tensor[shared.new], source.state_dict()[name][shared.old]), name
            assert torch.equal(tensor[others], fresh[name][others]), name
        else:
            assert torch.equal(tensor, source.state_dict()[name]), name
    assert f"{len(shared.new)} of {tokenizer.vocab_size} tokens" in report.counts()


def test_where_all_tokens_are_shared_nothing_is_fresh():
    source, target = build_model(CONFIG, 9), build_model(CONFIG, 4)
    shared = shared_tokens(["<blk>", "<unk>", *"ABCDEFG"], ["<blk>", "<unk>", "E", "B"])
    report = warm_start(target, source.state_dict(), "there", shared)
    assert not (report.fresh or report.in_part) and set(report.converted) == target.label_parameters()
    assert torch.equal(target.joiner.vocabulary.weight, source.joiner.vocabulary.weight[[0, 1, 6, 3]])


def test_every_parameter_with_a_row_for_each_label_is_known():
    for config in (CONFIG, ADDITIVE, changed("loss", CONFIG, kind="exact"), changed("predictor", kind="stateless")):
        small, large = (build_model(config, size).state_dict() for size in (8, 9))
        grown = {name for name in small if small[name].shape != large[name].shape}
        assert build_model(config, 9).label_parameters() == grown
        assert all(len(small[name]) == 8 for name in grown)


def test_what_the_loss_alone_needs_may_be_fresh_or_left_out():
    to_exact = warm_start(build_model(EXACT, 9), build_model(CONFIG, 9).state_dict(), "there")
    assert not to_exact.fresh and {name.split(".")[1] for name in to_exact.left_out} == {
        "ctc", "simple_encoder", "simple_predictor"
    }  # fmt: skip
    to_pruned = warm_start(build_model(CONFIG, 9), build_model(EXACT, 9).state_dict(), "there")
    assert to_pruned.fresh == [name for name in build_model(CONFIG, 9).state_dict() if name.startswith("training_only")]
    bytes_of_ctc = changed("loss", ctc_target="transcript")
    report = warm_start(build_model(CONFIG, 9), build_model(bytes_of_ctc, 9).state_dict(), "there")
    assert report.fresh == report.left_out == ["training_only.ctc.weight", "training_only.ctc.bias"]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The model file of a run whose tokens are `OTHER`."""
    monkeypatch.setattr(setup, "log_to", lambda path: None)
    (tmp_path / "run").mkdir()
    weights = build_model(CONFIG, OTHER.vocab_size).state_dict()
    checkpoint.save_model(tmp_path / "run" / "model.safetensors", weights, CONFIG, OTHER, {})
    return tmp_path / "run" / "model.safetensors"


def test_a_training_starts_from_a_run_or_a_file_with_other_tokens(trained, tmp_path):
    data = write_toy_data(tmp_path / "data")
    for number, source in enumerate((trained, trained.parent)):
        folder = tmp_path / f"exp{number}"
        made = setup.make_trainer(CHAR, data, folder, source, "", Ranks())
        kinds = [line[:9].strip() for line in (folder / "warm_start.txt").read_text().splitlines()]
        assert kinds.count("in part") == 3 + 2 * 3 and "fresh" not in kinds
        assert torch.equal(made.model.encoder.mean, torch.full((F,), 9.0))
    kept = changed("train", CHAR, freeze=["encoder.mean", "encoder.std", "encoder.bank.*"])
    made = setup.make_trainer(kept, data, tmp_path / "kept", trained, "", Ranks())
    assert not made.model.encoder.mean.any()  # the source's


def test_what_cannot_be_is_told_before_the_training(trained, tmp_path):
    data = write_toy_data(tmp_path / "data")

    def refused(config, source, told):
        with pytest.raises(UserError, match=told):
            setup.make_trainer(config, data, tmp_path / "exp", source, "", Ranks())

    refused(changed("train", CHAR, freeze=["joiner.*"]), None, "no model to start from; give --warm-start")
    refused(
        changed("train", CHAR, freeze=["joiner.*"]),
        trained,
        "joiner.vocabulary.*and 1 more. starts at random",
    )
    refused(changed("train", CHAR, freeze=["join.*"]), trained, "matches no parameter")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "encoder.onnx").touch()
    refused(CHAR, tmp_path / "export", "an exported folder, .* give the run folder, or the model.safetensors")
    refused(CHAR, tmp_path / "data", "holds no model.safetensors: train it first")
