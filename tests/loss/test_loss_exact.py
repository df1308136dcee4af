"""The exact loss against the sum over all paths, written out."""

import pytest
import torch
from support.loss_paths import TYPES, case, loss_by_paths

from residualformer.loss import NotFiniteError, rnnt_loss


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.3])
def test_value_and_gradient_are_those_of_all_paths(rnnt_type, delay_penalty):
    # float64 and at most a few hundred paths: 1e-12 leaves room for the order of summation only
    logits, symbols, boundary = case(seed=1)
    logits.requires_grad_()
    expected = loss_by_paths(logits.log_softmax(-1), symbols, boundary, rnnt_type, delay_penalty)
    loss = rnnt_loss(logits, symbols, 0, boundary, rnnt_type, delay_penalty, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.7], dtype=torch.float64)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), logits)
    (grad,) = torch.autograd.grad((loss * weights).sum(), logits)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def test_the_number_of_paths_of_a_uniform_lattice():
    # every path of S labels and T blanks has probability C^-(S+T); the last step is a blank: binomial(S+T-1, S) paths
    S, T, C = 3, 4, 5
    loss = rnnt_loss(torch.zeros(1, T, S + 1, C), torch.tensor([[1, 2, 3]]), 0)
    expected = (S + T) * torch.tensor(float(C)).log() - torch.tensor(20.0).log()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_gradient_is_a_finite_difference(rnnt_type):
    logits, symbols, boundary = case(seed=2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rnnt_loss(x, symbols, 0, boundary, rnnt_type, 0.1, "none"), logits)


def test_any_class_can_be_the_blank():
    logits, symbols, boundary = case(seed=3)
    symbols = (symbols + 2) % 4  # labels 3, 0, 1, blank 2
    expected = loss_by_paths(logits.log_softmax(-1), symbols, boundary, blank=2)
    torch.testing.assert_close(rnnt_loss(logits, symbols, 2, boundary, reduction="none"), expected)


def test_reductions():
    logits, symbols, boundary = case(seed=4)
    losses = rnnt_loss(logits, symbols, 0, boundary, reduction="none")
    assert losses.shape == (5,)
    assert torch.equal(rnnt_loss(logits, symbols, 0, boundary), losses.mean())
    assert torch.equal(rnnt_loss(logits, symbols, 0, boundary, reduction="sum"), losses.sum())


def test_each_utterance_of_a_ragged_batch_is_what_it_is_alone():
    logits, symbols, boundary = case(seed=5)
    losses = rnnt_loss(logits, symbols, 0, boundary, reduction="none")
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        alone = rnnt_loss(logits[b : b + 1, t0:t1, s0 : s1 + 1], symbols[b : b + 1, s0:s1], 0)
        torch.testing.assert_close(alone, losses[b], rtol=0, atol=1e-12)  # float64 rounding


def test_padding_and_batch_order_do_not_matter():
    logits, symbols, boundary = case(seed=6)
    logits.requires_grad_()
    losses = rnnt_loss(logits, symbols, 0, boundary, reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), logits)

    padded = torch.nn.functional.pad(logits.detach(), (0, 0, 0, 2, 0, 3), value=7.0).requires_grad_()
    padded_symbols = torch.nn.functional.pad(symbols, (0, 2), value=1)
    padded_losses = rnnt_loss(padded, padded_symbols, 0, boundary, reduction="none")
    (padded_grad,) = torch.autograd.grad(padded_losses.sum(), padded)
    assert torch.equal(padded_losses, losses)
    assert torch.equal(padded_grad[:, :5, :4], grad)
    assert not padded_grad[:, 5:].any() and not padded_grad[:, :, 4:].any()

    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(rnnt_loss(logits[order], symbols[order], 0, boundary[order], reduction="none"), losses[order])


def test_empty_transcripts_are_all_blanks():
    logits = torch.randn(2, 5, 1, 4)
    loss = rnnt_loss(logits, torch.empty(2, 0, dtype=torch.int64), 0, reduction="none")
    torch.testing.assert_close(loss, -logits.log_softmax(-1)[..., 0].sum((1, 2)))


def test_large_logits_stay_finite():
    logits, symbols, boundary = case(seed=7)
    logits = (logits * 1e4).float().requires_grad_()
    loss = rnnt_loss(logits, symbols, 0, boundary)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_half_precision_input_under_autocast_is_computed_in_float32():
    logits, symbols, boundary = case(seed=8)
    logits = logits.bfloat16().requires_grad_()
    expected = rnnt_loss(logits.float(), symbols, 0, boundary)
    with torch.autocast("cpu", torch.bfloat16):
        loss = rnnt_loss(logits, symbols, 0, boundary)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16 and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rnnt_type": "simple"}, "rnnt_type is 'simple'.*regular, modified, constrained"),
        ({"reduction": "average"}, "reduction is 'average'.*none, mean, sum"),
        ({"termination_symbol": 4}, "termination_symbol is 4.*0..3"),
        ({"delay_penalty": -1.0}, "delay_penalty"),
        ({"symbols": torch.ones(5, 2, dtype=torch.int64)}, r"symbols must be int64 of shape \(5, 3\)"),
        ({"symbols": torch.ones(5, 3)}, "symbols must be int64"),
        ({"symbols": torch.full((5, 3), 4)}, "symbols must be in 0..3"),
        ({"symbols": torch.full((5, 3), -1)}, "padding included"),
        ({"logits": torch.zeros(5, 5, 4)}, "logits must have shape"),
        ({"boundary": torch.tensor([[0, 0, 3, 6]] * 5)}, "boundary row 0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    logits, symbols, boundary = case(seed=9)
    arguments = {"logits": logits, "symbols": symbols, "termination_symbol": 0, "boundary": boundary} | change
    with pytest.raises(ValueError, match=message):
        rnnt_loss(**arguments)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("where", [(2, 1), (0, 0), (1, 3)], ids=str)
def test_an_infinite_logit_of_any_class_is_told(value, where):
    """Also of a class that is neither blank nor the next label: there is no softmax, and the gradient would be nan."""
    logits, symbols = torch.randn(2, 5, 4, 7, dtype=torch.float64), torch.tensor([[1, 2, 3], [3, 2, 1]])
    logits[(1, *where)][6] = value
    with pytest.raises(NotFiniteError, match="utterance 1 of the batch") as raised:
        rnnt_loss(logits.requires_grad_(), symbols, 0)
    assert raised.value.rows == [1]
    rest = rnnt_loss(logits[:1].detach().requires_grad_(), symbols[:1], 0)
    assert rest.isfinite()


def test_a_class_that_is_ruled_out_has_no_part_in_the_loss():
    logits, symbols = torch.randn(1, 5, 4, 7, dtype=torch.float64), torch.tensor([[1, 2, 3]])
    ruled_out = logits.clone()
    ruled_out[..., 6] = -torch.inf
    ruled_out.requires_grad_()
    loss = rnnt_loss(ruled_out, symbols, 0)
    torch.testing.assert_close(loss, rnnt_loss(logits[..., :6], symbols, 0))
    loss.backward()
    assert ruled_out.grad is not None and ruled_out.grad.isfinite().all()
