"""The recurrent loop of branches against the plain one, a loop written out by hand, and finite differences."""

import pytest
import torch
from support.scan import inputs, plain
from torch import Tensor

from residualformer.kernels.recurrent import gru_cell, lstm_cell, recurrent_layer
from residualformer.kernels.scan import scan

KINDS = ("lstm", "gru")


def ours(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    """`scan` on a copy of the gates, which it overwrites, with flat results."""
    own, h, state = scan(kind, gates.clone(), weight, decisions, state)
    return own, h, *state


def by_hand(kind: str, gates: Tensor, weight: Tensor, decisions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    """Eq. 2 word by word: cell after cell, branch after branch."""
    gates = gates.unflatten(1, decisions.shape[1:])
    own, combined = [], []
    for t in range(gates.size(1)):
        made = []
        for n, matrix in enumerate(weight):
            recurrent = state[0] @ matrix.T
            if kind == "lstm":
                made.append(lstm_cell(gates[n, t] + recurrent, state[1]))
            else:
                made.append((gru_cell(gates[n, t], recurrent, state[0]),))
        own.append(torch.stack([part[0] for part in made]))
        state = [
            sum(decisions[n, t].unsqueeze(1) * made[n][part] for n in range(len(made))) for part in range(len(state))
        ]
        combined.append(state[0])
    return torch.stack(own, 1), torch.stack(combined), *state


@pytest.mark.parametrize("kind", KINDS)
def test_one_branch_is_torchs_layer(kind):
    gates, weight, _, *state = inputs(kind, branches=1, dtype=torch.float32)
    bias = torch.zeros(gates.size(2))
    # Input products that are the input itself: the layer gets the unit matrix.
    expected, last = recurrent_layer(kind, gates[0].view(5, 3, -1), tuple(state), torch.eye(len(bias)), weight[0], bias)
    own, h, *new = ours(kind, gates, weight, torch.ones(1, 5, 3), *state)
    for got, wanted in zip([own[0], h, *new], [expected, expected, *last], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)  # fp32: other exponentials, other sums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branches", (1, 2, 3))
@pytest.mark.parametrize("reference", [plain, by_hand])
def test_scan_and_its_gradients_are_those_of_a_plain_loop(kind, branches, reference):
    tensors = inputs(kind, branches)
    results, expected = ours(kind, *tensors), reference(kind, *tensors)
    weights = [torch.randn_like(result) for result in expected]
    for used in ([0], [1], [-1], range(len(expected))):  # outputs that nobody uses must not matter
        gradients = [
            torch.autograd.grad(
                sum((values[i] * weights[i]).sum() for i in used), tensors, retain_graph=True, materialize_grads=True
            )
            for values in (results, expected)
        ]
        for got, wanted in zip(results + gradients[0], expected + gradients[1], strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)  # float64, sums in another order


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    tensors = inputs(kind, frames=3, streams=2, dim=3)
    assert torch.autograd.gradcheck(lambda *values: ours(kind, *values), tensors)


def test_a_tensor_that_needs_no_gradient_gets_none():
    gates, weight, decisions, *state = inputs("lstm")
    own, h, *_ = ours("lstm", gates, weight, decisions.detach(), *(part.detach() for part in state))
    (own.sum() + h.sum()).backward()
    assert gates.grad is not None and weight.grad is not None and decisions.grad is None
    with torch.no_grad():
        assert not ours("lstm", gates, weight, decisions, *state)[0].requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_decisions_run_the_chosen_branch_alone(kind):
    gates, weight, _, *state = (tensor.detach() for tensor in inputs(kind, branches=3))
    chosen = torch.randint(3, (5, 3))
    decisions = torch.nn.functional.one_hot(chosen, 3).permute(2, 0, 1)
    own, h, *_ = ours(kind, gates, weight, decisions, *state)
    gates = gates.unflatten(1, (5, 3))
    for n in range(3):
        current = [part[n : n + 1] for part in state]
        for t in range(5):
            b = chosen[t, n]
            z, recurrent = gates[b, t, n : n + 1], current[0] @ weight[b].T
            current = lstm_cell(z + recurrent, current[1]) if kind == "lstm" else [gru_cell(z, recurrent, current[0])]
            torch.testing.assert_close(h[t, n], current[0][0], rtol=0, atol=1e-12)  # float64, sums in another order
            assert torch.equal(own[b, t, n], h[t, n])  # a branch that was not chosen leaves no trace


@pytest.mark.parametrize("kind, tolerance", [("lstm", 0.01), ("gru", 0.03)])
def test_bf16_products_agree_with_fp32(kind, tolerance):
    """bf16 keeps 8 bits: products are off by 2^-9; torch adds up the GRU's weight gradient in bf16, frame by frame."""
    tensors = inputs(kind, frames=40, streams=4, dim=16, dtype=torch.float32)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            own, h, *last = ours(kind, *tensors)
        assert {t.dtype for t in (own, h, *last)} == {torch.float32}
        gradients.append((h, *torch.autograd.grad(h.square().sum() + own.sum(), tensors)))
    for full, half in zip(*gradients, strict=True):
        assert (full - half).norm() <= tolerance * full.norm()
