"""Weights of branches: what is dense in training is the same matrix the cheap way at run time."""

import pytest
import torch

from residualformer.config.amnet import AmNetConfig
from residualformer.nn.branches import BranchWeights, FactorisedWeight, PlainWeight, SparseWeight, make_weight, rank_for

W, V = 12, 8


def sparse(branches=2) -> BranchWeights:
    torch.manual_seed(0)
    weights = BranchWeights(SparseWeight(W, V, 0.5) for _ in range(branches))
    for n, weight in enumerate(weights):
        weight.mask.copy_(torch.rand(W, V) > 0.2 + 0.5 * n)
    return weights


def factorised(ranks=(6, 2, 6, 4)) -> FactorisedWeight:
    torch.manual_seed(0)
    return FactorisedWeight(W, V, list(ranks), 0.5)


def plain() -> PlainWeight:
    torch.manual_seed(0)
    return PlainWeight(W, V, 0.5)


@pytest.mark.parametrize("make, branches", [(plain, 1), (sparse, 2), (factorised, 4)])
@torch.no_grad()
def test_dense_of_one_and_of_all_and_the_product_agree(make, branches):
    weight, x = make(), torch.randn(5, V)
    everything = weight.dense_all()
    assert everything.shape == (branches, W, V)
    for n in range(branches):
        # fp32: a product of two factors, or its parts added up
        torch.testing.assert_close(everything[n], weight.dense(n), rtol=0, atol=1e-6)
        torch.testing.assert_close(weight.product(x, n), x @ weight.dense(n).T, rtol=0, atol=1e-6)


def test_a_masked_weight_keeps_its_value_gets_no_gradient_and_can_recover():
    weight = sparse()[1]
    before = weight.W.detach().clone()
    (weight.dense() * torch.randn(W, V)).sum().backward()
    assert torch.equal(weight.W.grad != 0, weight.mask)
    assert torch.equal(weight.dense() != 0, weight.mask) and torch.equal(weight.W, before)
    weight.mask.fill_(True)
    assert torch.equal(weight.dense(), before)


@torch.no_grad()
def test_the_sparse_kernel_follows_every_change_of_weights_and_mask():
    weight, x = sparse()[1], torch.randn(3, V)

    def agrees():
        # fp32: another order of the sums
        torch.testing.assert_close(weight.product(x), x @ weight.dense().T, rtol=0, atol=1e-6)

    agrees()
    weight.W.mul_(2)
    agrees()
    weight.mask.fill_(True)
    agrees()
    weight.load_state_dict(sparse()[0].state_dict())
    agrees()
    weight.W = torch.nn.Parameter(torch.randn(W, V))
    agrees()


def test_a_sparse_product_has_gradients_where_they_are_asked_for():
    weight = sparse()[1]
    weight.product(torch.randn(3, V)).sum().backward()
    assert torch.equal(weight.W.grad != 0, weight.mask)


@torch.no_grad()
def test_a_factorised_product_is_eq_4_column_by_column():
    weight, x = factorised(), torch.randn(V)
    for n, rank in enumerate(weight.ranks):
        y = sum(weight.P1[:, k] * (weight.P2[:, k] @ x) for k in range(rank))
        torch.testing.assert_close(weight.product(x[None], n)[0], y, rtol=0, atol=1e-6)  # fp32, another order


def test_gradients_of_all_branches_at_once_are_those_of_each():
    weight, towards = factorised(), torch.randn(4, W, V)
    parameters = list(weight.parameters())
    at_once = torch.autograd.grad((weight.dense_all() * towards).sum(), parameters)
    one_by_one = torch.autograd.grad(sum((weight.dense(n) * towards[n]).sum() for n in range(4)), parameters)
    for got, wanted in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)  # fp32


def test_factors_are_there_once():
    weight = factorised()
    assert list(weight.state_dict()) == ["P1", "P2"] and [name for name, _ in weight.named_parameters()] == ["P1", "P2"]
    assert weight.P1.shape == (W, 6) and weight.P2.shape == (V, 6)


def test_flops_are_multiply_accumulates():
    assert plain().flops() == W * V
    assert [sparse().flops(n) for n in range(2)] == [weight.mask.sum() for weight in sparse()]
    assert [factorised().flops(n) for n in range(4)] == [r * (W + V) for r in (6, 2, 6, 4)]


@pytest.mark.parametrize("w, v, compression", [(4096, 1024, 0.35), (4096, 1024, 0.6), (4096, 192, 0.35), (12, 8, 0.0)])
def test_a_rank_is_the_largest_that_compresses_enough(w, v, compression):
    rank = rank_for(w, v, compression)
    assert rank * (w + v) <= (1 - compression) * w * v < (rank + 1) * (w + v)


def test_a_rank_is_at_least_one():
    assert rank_for(12, 8, 0.99) == 1


@pytest.mark.parametrize("ranks", [[9, 2], [4, 0], [-1]])
def test_ranks_that_cannot_be_are_refused(ranks):
    with pytest.raises(ValueError, match=r"not within 1\.\.8 for a 12 x 8 weight"):
        FactorisedWeight(W, V, ranks, 0.5)


def test_random_factors_vary_as_a_plain_weight_does():
    torch.manual_seed(0)
    for method in ("none", "sparse", "factorised"):
        weight = make_weight(AmNetConfig(method, [0.3, 0.6]), 256, 192, 0.1).dense(0)
        # 49,152 numbers; those of a product depend on each other, so 5 % rather than the 0.5 % of independent ones
        assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
