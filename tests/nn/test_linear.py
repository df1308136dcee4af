"""W + A·B + D: identities of the residual projection."""

import copy

import pytest
import torch
from torch import nn

from residualformer.nn.linear import DenseWeights, ResidualLinear

SIZES = [(6, 6), (5, 9), (9, 5)]


def filled(m: int, n: int, rank: int, diagonal: bool) -> ResidualLinear:
    """A residual projection in float64 with random B and D."""
    torch.manual_seed(0)
    linear = ResidualLinear(nn.Linear(m, n).double(), rank, diagonal).double()
    for parameter in linear.parameters():
        nn.init.normal_(parameter)
    return linear


@pytest.mark.parametrize("m, n", SIZES)
@pytest.mark.parametrize("rank, diagonal", [(0, True), (3, False), (3, True)])
def test_dense_is_the_papers_sum(m, n, rank, diagonal):
    linear = filled(m, n, rank, diagonal)
    expected = linear.shared.weight.T.clone()  # the paper's W is (M, N)
    if rank:
        expected += linear.A @ linear.B
    for i in range(min(m, n) if diagonal else 0):
        expected[i, i] += linear.D[i]
    torch.testing.assert_close(linear.dense().T, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("m, n", SIZES)
@pytest.mark.parametrize("rows", [1, 200])  # factor by factor, and through dense()
@pytest.mark.parametrize("rank, diagonal", [(0, False), (0, True), (3, False), (3, True)])
def test_forward_is_dense(m, n, rows, rank, diagonal):
    linear = filled(m, n, rank, diagonal)
    x = torch.randn(rows, m, dtype=torch.float64)
    expected = x @ linear.dense().T + linear.shared.bias
    torch.testing.assert_close(linear(x), expected, rtol=0, atol=1e-12)  # rounding of float64 sums of 9 terms


@pytest.mark.parametrize("rows", [1, 200])
def test_fresh_residual_changes_no_bit(rows):
    shared = nn.Linear(16, 24)
    x = torch.randn(rows, 16)
    assert torch.equal(ResidualLinear(shared, rank=4, diagonal=True)(x), shared(x))


def test_dense_is_new_and_never_writes_the_shared_weight():
    shared = nn.Linear(6, 6)
    before = shared.weight.detach().clone()
    for linear in (ResidualLinear(shared), ResidualLinear(shared, 2, True)):
        with torch.no_grad():
            linear.dense().zero_()
        linear.train(), linear.eval()
        assert torch.equal(shared.weight, before)


def test_gradients_of_both_paths_are_those_of_finite_differences():
    linear = filled(4, 5, 2, True)
    names = [name for name, _ in linear.named_parameters()]
    for rows in (1, 40):
        x = torch.randn(rows, 4, dtype=torch.float64, requires_grad=True)

        def run(x, *parameters):
            return torch.func.functional_call(linear, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, (x, *linear.parameters()))


def test_shared_is_not_owned_and_survives_a_copy():
    pair = nn.ModuleDict({"shared": nn.Linear(4, 4)})
    pair["own"] = ResidualLinear(pair["shared"], 1, True)
    assert set(pair.state_dict()) == {"shared.weight", "shared.bias", "own.A", "own.B", "own.D"}
    twin = copy.deepcopy(pair)
    assert twin["own"].shared is twin["shared"]


@pytest.mark.parametrize("rank", [-1, 5])
def test_impossible_rank_is_refused(rank):
    with pytest.raises(ValueError, match=r"rank -?\d is not within 0..4"):
        ResidualLinear(nn.Linear(4, 6), rank)


@pytest.mark.parametrize("rank, diagonal", [(0, False), (0, True), (3, False), (3, True)])
def test_a_stack_is_the_projections_one_after_the_other(rank, diagonal):
    linears = [filled(6, n, rank, diagonal) for n in (6, 4)]
    weight, bias = DenseWeights()(*linears)
    x = torch.randn(9, 6, dtype=torch.float64)
    expected = torch.cat([linear(x) for linear in linears], dim=1)
    torch.testing.assert_close(x @ weight.T + bias, expected, rtol=0, atol=1e-12)


def test_under_autocast_the_sum_is_rounded_once():
    linear = filled(6, 9, 3, True).float()
    linear.shared.float()
    exact = linear.dense()
    with torch.autocast("cpu", torch.bfloat16):
        weight, _ = DenseWeights()(linear)
        assert linear(torch.randn(100, 6)).dtype == torch.bfloat16
    assert torch.equal(weight, exact.bfloat16())
    names = [name for name, _ in linear.named_parameters()]
    direction = torch.randn(9, 6).bfloat16()
    grads = [torch.autograd.grad((each * direction).sum(), linear.parameters()) for each in (weight, exact)]
    for name, found, expected in zip(names, *grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=name)


def test_only_what_is_the_same_in_every_layer_is_kept():
    shared = nn.Linear(6, 6)
    first, second, other = ResidualLinear(shared), ResidualLinear(shared), ResidualLinear(shared, diagonal=True)
    weights = DenseWeights()
    assert weights(first)[0] is weights(second)[0]
    assert weights(other)[0] is not weights(other)[0]
    assert weights(first, second)[0].shape == (12, 6) and weights(second, first)[0] is weights(first, second)[0]
    assert DenseWeights()(first)[0] is not weights(first)[0]


@pytest.mark.parametrize("rank, diagonal", [(0, False), (3, True)])
def test_training_on_whole_utterances_gives_the_gradients_of_the_plain_product(rank, diagonal):
    linear = filled(6, 9, rank, diagonal)
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    leaves, results = [x, *linear.shared.parameters(), *linear.parameters()], []
    for y in (linear(x), linear(x, DenseWeights())):
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert "_Linear" in y.grad_fn.name()
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
