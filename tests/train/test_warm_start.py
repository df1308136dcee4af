"""Warm starts of recurrent encoders: dense to factors, factors to branches, dense to sparse, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import Config, EncoderConfig, FeatureConfig, JoinerConfig, LossConfig, PredictorConfig
from residualformer.errors import UserError
from residualformer.nn import branches
from residualformer.nn.arbitrator import ARBITRATOR, one_hot
from residualformer.nn.transducer import Transducer, build_model
from residualformer.train.warm_start import warm_start

PLAIN = Config(
    features=FeatureConfig(num_mel_bins=4),
    encoder=EncoderConfig(kind="lstm", num_layers=2, dim=12, dropout=0.0),
    predictor=PredictorConfig(embedding_dim=8, hidden_dim=16, num_layers=1, dropout=0.0),
    joiner=JoinerConfig("additive"),
    loss=LossConfig(kind="simple", ctc_scale=0.5),
)
LENGTHS = torch.tensor([31, 17])


def config(method: str, *compression: float, kind: str = "lstm") -> Config:
    encoder = dataclasses.replace(PLAIN.encoder, kind=kind)
    return dataclasses.replace(PLAIN, encoder=encoder, amnet=AmNetConfig(method, list(compression)))


def model(method: str = "none", *compression: float, kind: str = "lstm") -> Transducer:
    return build_model(config(method, *compression, kind=kind), 9).eval()


def features() -> torch.Tensor:
    return torch.randn(2, 31, 4, generator=torch.Generator().manual_seed(3))


def branch(target: Transducer, number: int) -> torch.Tensor:
    """The encoder's frames when one branch takes them all."""

    def always(logits):
        return torch.nn.functional.one_hot(torch.full(logits.shape[:2], number), logits.size(2)).float()

    with torch.no_grad():
        return target.encoder.encode(features(), LENGTHS, always).frames


@pytest.fixture
def full_rank(monkeypatch):
    """Compressions that give every factor its full rank."""
    monkeypatch.setattr(branches, "rank_for", lambda w, v, compression: min(w, v))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("compression", [(0.0,), (0.0, 0.0)])
def test_factors_of_full_rank_change_the_encoder_by_rounding_only(full_rank, kind, compression):
    source, target = model(kind=kind), model("factorised", *compression, kind=kind)
    report = warm_start(target, source.state_dict(), "rnnt")
    assert len(report.converted) == 2 * 2 * 2  # P1 and P2 of two matrices in two layers
    assert all(name.startswith("encoder.arbitrator.") for name in report.fresh)
    with torch.no_grad():
        wanted = source.encoder(features(), LENGTHS)[0]
        torch.testing.assert_close(target.encoder(features(), LENGTHS)[0], wanted, rtol=0, atol=2e-6)  # fp32, 11 frames
    for name in ("predictor.lstm.weight_hh_l0", "joiner.project_encoder.weight", "training_only.ctc.bias"):
        assert torch.equal(target.state_dict()[name], source.state_dict()[name]) and name in report.mapped


def test_branches_begin_with_the_factors_in_their_order():
    """The slow branch is the source's product again, the fast one its best approximation of lower rank."""
    source, target = model("factorised", 0.35), model("factorised", 0.35, 0.6)
    warm_start(target, source.state_dict(), "mf")
    before, after = source.encoder.layers[1].recurrent, target.encoder.layers[1].recurrent
    torch.testing.assert_close(after.dense(0), before.dense(0), rtol=0, atol=1e-6)
    left_out = torch.linalg.svdvals(before.dense(0))[after.ranks[1] :].square().sum()
    torch.testing.assert_close((after.dense(1) - before.dense(0)).square().sum(), left_out)
    with torch.no_grad():
        torch.testing.assert_close(branch(target, 0), source.encoder(features(), LENGTHS)[0], rtol=0, atol=2e-6)


def test_branches_go_on_from_branches_bit_by_bit():
    """Their factors have learned an order that a decomposition would destroy."""
    for method in ("factorised", "sparse"):
        source, target = model(method, 0.35, 0.6), model(method, 0.35, 0.6)
        for name, buffer in source.encoder.named_buffers():
            if name.endswith("mask"):
                buffer.copy_(torch.rand(buffer.shape) > 0.5)
        report = warm_start(target, source.state_dict(), "avg")
        assert set(report.mapped) == set(target.state_dict()) and not report.fresh + report.converted
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize("changes", [{"use_state": True}, {"hidden_dim": 7}, {"num_layers": 1}])
def test_an_arbitrator_of_another_kind_is_new_beside_branches_that_go_on(changes):
    source, given = model("factorised", 0.35, 0.6), config("factorised", 0.35, 0.6)
    amnet = dataclasses.replace(given.amnet, arbitrator=dataclasses.replace(given.amnet.arbitrator, **changes))
    target = build_model(dataclasses.replace(given, amnet=amnet), 9).eval()
    report = warm_start(target, source.state_dict(), "avg")
    of_arbitrator = {name for name in source.state_dict() if name.startswith(ARBITRATOR)}
    assert set(report.left_out) == of_arbitrator and not report.converted
    assert set(report.fresh) == {name for name in target.state_dict() if name.startswith(ARBITRATOR)}
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in report.mapped)
    for number in (0, 1):
        torch.testing.assert_close(branch(target, number), branch(source, number), rtol=0, atol=2e-6)  # as above


@pytest.mark.parametrize("compression", [(0.15,), (0.15, 0.8)])
def test_sparse_branches_begin_as_copies_of_the_dense_encoder(compression):
    source, target = model(), model("sparse", *compression)
    report = warm_start(target, source.state_dict(), "rnnt")
    assert {name.rsplit(".", 1)[-1] for name in report.converted} == {"W", "bias"}
    assert {name for name in report.fresh if "arbitrator" not in name} == {
        name for name in target.state_dict() if name.endswith("mask")
    }
    with torch.no_grad():
        frames = target.encoder.encode(features(), LENGTHS, one_hot).frames
        torch.testing.assert_close(frames, source.encoder(features(), LENGTHS)[0], rtol=0, atol=2e-6)
    assert sorted(line.split()[1] for line in report.lines()) == sorted(target.state_dict())


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (("factorised", 0.6), ("factorised", 0.35), "factors of rank"),
        (("factorised", 0.35), ("none",), "encoder.layers.0.input.W is missing"),
        (("factorised", 0.35, 0.6), ("factorised", 0.35), "is not part of the new model"),
        (("sparse", 0.15), ("sparse", 0.15, 0.8), "encoder.layers.0.input.1.W is missing"),
        (("sparse", 0.15), ("factorised", 0.35), "P1 is missing"),
    ],
)
def test_what_cannot_be_started_from_is_told(source, target, words):
    with pytest.raises(UserError, match=words):
        warm_start(model(*target), model(*source).state_dict(), "there")
