"""Learning rates and their schedules, weight decay, Muon and Adam (more of the optimizer is tested with the loop)."""

from __future__ import annotations

import pytest
import torch
from support.toy_training import CONFIG, changed
from torch import nn

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import Config, EncoderConfig, ResidualConfig, TrainConfig
from residualformer.config.training import OptimizerConfig
from residualformer.nn.transducer import build_model
from residualformer.train.optimizer import Optimizer, learning_rate_factor


def test_warm_hold_decay():
    factor = learning_rate_factor(OptimizerConfig(schedule="hold", warmup_steps=10, hold_fraction=0.6), 110)
    assert [factor(0), factor(9), factor(10), factor(70)] == [0.1, 1, 1, 1]
    assert factor(90) == pytest.approx(0.1) and factor(110) == pytest.approx(0.01)  # 0.01 to the power of 1/2 and 1
    assert factor(71) / factor(72) == pytest.approx(factor(100) / factor(101))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_nothing_but_decay_and_nothing_but_hold(fraction):
    factor = learning_rate_factor(OptimizerConfig(schedule="hold", warmup_steps=0, hold_fraction=fraction), 100)
    assert [factor(0), factor(50), factor(100)] == pytest.approx([1, 1, 1] if fraction else [1, 0.1, 0.01])


def test_biases_of_branches_do_not_decay():
    encoder = EncoderConfig(kind="lstm", num_layers=1, dim=8)
    model = build_model(Config(encoder=encoder, amnet=AmNetConfig("sparse", [0.15, 0.8])), 9)
    config = TrainConfig(optimizer=OptimizerConfig(kind="adamw", weight_decay=0.1))
    (part,) = Optimizer(model, config).parts
    decays = {id(p) for group in part.param_groups if group["weight_decay"] for p in group["params"]}
    assert decays == {id(p) for name, p in model.named_parameters() if p.dim() > 1 and not name.endswith(".bias")}
    assert id(model.encoder.layers[0].bias) not in decays and model.encoder.layers[0].bias.shape == (2, 32)


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_muon_updates_the_matrix_of_each_gate_as_if_it_were_alone(kind, gates):
    model = build_model(Config(encoder=EncoderConfig(kind=kind, num_layers=2, dim=8)), 9)
    config = OptimizerConfig(kind="muon", lr=1e-3, muon_lr=1e-2, warmup_steps=0, clip_norm=1e9)
    optimizer = Optimizer(model, TrainConfig(optimizer=config))
    weights = [w.W for layer in model.encoder.layers for w in (layer.input, layer.recurrent)]
    alone = [nn.Parameter(gate.clone()) for weight in weights for gate in weight.detach().chunk(gates)]
    peer = torch.optim.Muon(alone, 1e-2, 0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for gate, gradient in zip(alone, [g for w in weights for g in w.grad.chunk(gates)], strict=True):
            gate.grad = gradient.clone()
        factor = learning_rate_factor(config, TrainConfig().max_steps)(step)
        peer.param_groups[0]["lr"] = 1e-2 * factor
        peer.step()
        optimizer.step()
    assert torch.equal(torch.cat([w.flatten() for w in weights]), torch.cat([gate.flatten() for gate in alone]))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("clip_norm", [0.5, 1e9])  # every gradient is clipped, none is
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_steps_are_those_of_torchs_plain_optimiser_on_clipped_gradients(kind, clip_norm):
    model = build_model(Config(encoder=EncoderConfig(kind="lstm", num_layers=1, dim=8)), 9)
    config = OptimizerConfig(kind=kind, lr=1e-2, warmup_steps=0, clip_norm=clip_norm)
    ours = Optimizer(model, TrainConfig(optimizer=config, max_steps=10**9))
    twins = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    peer = plain(twins, lr=1e-2, betas=tuple(config.betas), eps=1e-9, weight_decay=0.0, foreach=False, fused=False)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p, twin in zip(model.parameters(), twins, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            twin.grad = p.grad.clone()
        expected = nn.utils.clip_grad_norm_(twins, clip_norm)
        peer.step()
        assert ours.step() == pytest.approx(float(expected), rel=1e-6)  # sums in another order
    for p, twin in zip(model.parameters(), twins, strict=True):
        torch.testing.assert_close(p, twin, rtol=1e-5, atol=1e-7)  # three steps of 0.01, in fp32


def test_the_arbitrator_has_a_learning_rate_of_its_own():
    model = build_model(Config(encoder=EncoderConfig(kind="lstm", dim=8), amnet=AmNetConfig("sparse", [0.1, 0.8])), 9)
    config = OptimizerConfig(kind="adamw", lr=1e-3, arbitrator_factor=10.0, warmup_steps=0)
    optimizer = Optimizer(model, TrainConfig(optimizer=config))
    rates = {id(p): group["lr"] for group in optimizer.parts[0].param_groups for p in group["params"]}
    own = {id(p) for p in model.encoder.arbitrator.parameters()}
    assert {rate for p, rate in rates.items() if p in own} == {1e-2}
    assert {rate for p, rate in rates.items() if p not in own} == {1e-3}
    assert len(rates) == len(list(model.parameters())) and optimizer.lr == 1e-3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_residuals_have_a_learning_rate_of_their_own(kind):
    residual = ResidualConfig(rank=2, diagonal=True)
    encoder = EncoderConfig(num_layers=2, dim=8, num_heads=2, ffn_dim=16, sharing=2, residual=residual)
    model = build_model(Config(encoder=encoder), 9)
    config = OptimizerConfig(kind, lr=1e-3, residual_factor=5, warmup_steps=0)
    optimizer = Optimizer(model, TrainConfig(optimizer=config))
    rates = {id(p): group["lr"] for group in optimizer.parts[0].param_groups for p in group["params"]}
    own = [p for name, p in model.encoder.layers.named_parameters() if name.rpartition(".")[2] in ("A", "B", "D")]
    assert len(own) == 2 * 6 * 3 and {rates.pop(id(p)) for p in own} == {5e-3}
    assert set(rates.values()) == {1e-3}
    matrices = len(model.encoder.matrices()) if kind == "muon" else 0
    assert len(rates) + len(own) + matrices == len(list(model.parameters()))


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_without_gradients_only_the_schedule_goes_on(kind):
    """As after a batch of which no loss can be had."""
    model = build_model(Config(encoder=EncoderConfig(kind=kind, num_layers=1, dim=8, num_heads=2)), 9)
    optimizer = Optimizer(model, TrainConfig(optimizer=OptimizerConfig(kind="muon", weight_decay=0.1)))
    before, lr = [p.clone() for p in model.parameters()], optimizer.lr
    optimizer.step()
    assert all(map(torch.equal, before, model.parameters())) and optimizer.lr > lr


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate_rises_and_falls(schedule):
    factor = learning_rate_factor(OptimizerConfig(schedule=schedule, warmup_steps=10), 110)
    assert [factor(0), factor(9), factor(10), factor(60), factor(110)] == pytest.approx([0.1, 1, 1, 0.5, 0])


def test_muon_takes_the_shared_matrices_and_nothing_else():
    model = build_model(changed("encoder", residual=ResidualConfig(2, True)), 9)
    adamw, muon = Optimizer(model, CONFIG.train).parts
    owned = [{id(p) for group in part.param_groups for p in group["params"]} for part in (adamw, muon)]
    assert owned[1] == {id(p) for name, p in model.named_parameters() if "bank" in name and name.endswith("weight")}
    assert owned[0] | owned[1] == {id(p) for p in model.parameters()} and not owned[0] & owned[1]
