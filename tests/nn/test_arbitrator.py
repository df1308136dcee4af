"""Arbitrator and samplers (AmNets, section 2)."""

import pytest
import torch

from residualformer.config.amnet import ArbitratorConfig
from residualformer.nn.arbitrator import Arbitrator, GumbelSoftmax, OneBranch, one_hot, uniform_branch

LOGITS = torch.tensor([0.5, 1.7, -0.4])


def draws(sampler, count=40_000):
    torch.manual_seed(3)
    return sampler(LOGITS.expand(4, count // 4, 3)).flatten(0, 1)


def test_parameters_in_the_papers_size():
    arbitrator = Arbitrator(192, 2, ArbitratorConfig())
    assert sum(p.numel() for p in arbitrator.parameters()) == 296_194
    biases = 2 * 4 * 128 + 2
    assert arbitrator.flops() == 296_194 - biases


@torch.no_grad()
def test_it_is_lstm_layers_and_a_projection():
    torch.manual_seed(0)
    arbitrator = Arbitrator(6, 3, ArbitratorConfig(hidden_dim=8, num_layers=2))
    lstm = torch.nn.LSTM(6, 8, 2, batch_first=True)
    for layer in range(2):
        getattr(lstm, f"weight_ih_l{layer}").copy_(arbitrator.input[layer])
        getattr(lstm, f"weight_hh_l{layer}").copy_(arbitrator.recurrent[layer])
        getattr(lstm, f"bias_ih_l{layer}").copy_(arbitrator.bias[layer])
        getattr(lstm, f"bias_hh_l{layer}").zero_()
    x = torch.randn(4, 9, 6)
    full, _ = arbitrator(x)
    torch.testing.assert_close(full, arbitrator.out(lstm(x)[0]), rtol=0, atol=1e-6)  # fp32
    state, pieces = None, []
    for frames in x.split(2, dim=1):
        logits, state = arbitrator(frames, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), full, rtol=0, atol=1e-6)  # state in, state out


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 5.0])
def test_gumbel_softmax_sums_to_one_and_its_largest_follows_the_softmax(tau):
    drawn = draws(GumbelSoftmax(tau))
    torch.testing.assert_close(drawn.sum(1), torch.ones(len(drawn)))
    # Gumbel-max: the largest is a draw from the softmax at any tau. Five standard deviations of 40,000 draws.
    frequency = torch.bincount(drawn.argmax(1), minlength=3) / len(drawn)
    torch.testing.assert_close(frequency, LOGITS.softmax(0), rtol=0, atol=5 * 0.5 / 40_000**0.5)


def test_gumbel_softmax_becomes_one_hot_as_tau_falls():
    hardness = [draws(GumbelSoftmax(tau)).max(1).values.mean() for tau in (10.0, 1.0, 0.1, 0.001)]
    assert hardness == sorted(hardness) and hardness[0] < 0.5 and hardness[-1] > 0.999


def test_gumbel_softmax_is_eq_1():
    torch.manual_seed(5)
    noise = -torch.empty(1, 1, 3).exponential_().log()
    torch.manual_seed(5)
    drawn = GumbelSoftmax(0.7)(LOGITS.view(1, 1, 3))
    terms = ((LOGITS.softmax(0).log() + noise) / 0.7).exp()
    torch.testing.assert_close(drawn, terms / terms.sum())


def test_gradients_flow_through_gumbel_softmax_alone():
    logits = torch.randn(2, 5, 3, requires_grad=True)
    (GumbelSoftmax(1.0)(logits) * torch.randn(2, 5, 3)).sum().backward()
    assert logits.grad.abs().min() > 0
    assert not one_hot(logits).requires_grad and not uniform_branch(logits).requires_grad


def test_straight_through_takes_one_branch_with_the_gradient_of_the_soft_decisions():
    logits, weights = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3)
    found = {}
    for hard in (False, True):
        torch.manual_seed(7)
        drawn = GumbelSoftmax(0.7, hard=hard)(logits)
        (gradient,) = torch.autograd.grad((drawn * weights).sum(), logits)
        found[hard] = drawn.detach(), gradient
    (soft, of_soft), (hard, of_hard) = found[False], found[True]
    assert torch.equal(of_soft, of_hard) and torch.equal(hard.argmax(2), soft.argmax(2))
    # one-hot but for the rounding of soft + (hard - soft)
    torch.testing.assert_close(hard, one_hot(soft), rtol=0, atol=1e-7)


def test_one_branch_has_all_frames():
    for number in range(3):
        assert torch.equal(OneBranch(number)(torch.randn(2, 5, 3)), torch.eye(3)[number].expand(2, 5, 3))


def test_one_hot_takes_the_most_probable():
    logits = torch.randn(4, 7, 3)
    decisions = one_hot(logits)
    assert torch.equal(decisions.argmax(2), logits.argmax(2)) and torch.equal(decisions.sum(2), torch.ones(4, 7))
    assert set(decisions.unique().tolist()) == {0.0, 1.0}


def test_uniform_takes_branches_evenly_whatever_the_logits():
    drawn = draws(uniform_branch)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and torch.equal(drawn.sum(1), torch.ones(len(drawn)))
    # five standard deviations of 40,000 draws
    torch.testing.assert_close(drawn.mean(0), torch.full((3,), 1 / 3), rtol=0, atol=5 * 0.5 / 40_000**0.5)


def test_without_noise_gumbel_softmax_is_a_softmax_of_its_temperature():
    logits = torch.randn(2, 5, 3)
    torch.testing.assert_close(GumbelSoftmax(0.5, noise=0.0)(logits), (logits / 0.5).softmax(2))
