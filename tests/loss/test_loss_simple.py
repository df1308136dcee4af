"""The additive losses against the exact one on am + lm, and the smoothed arcs against dense log-softmaxes."""

import pytest
import torch
from support.loss_paths import TYPES, additive_case, loss_by_paths

from residualformer.loss import (
    get_rnnt_logprobs,
    get_rnnt_logprobs_smoothed,
    rnnt_loss,
    rnnt_loss_simple,
    rnnt_loss_smoothed,
)


def dense(lm, am):
    return am[:, :, None] + lm[:, None]  # (B, T, S+1, C)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.2])
def test_simple_is_exact_on_the_sum(rnnt_type, delay_penalty):
    lm, am, symbols, boundary = additive_case(seed=1)
    lm.requires_grad_(), am.requires_grad_()
    expected = rnnt_loss(dense(lm, am), symbols, 0, boundary, rnnt_type, delay_penalty, "none")
    loss = rnnt_loss_simple(lm, am, symbols, 0, boundary, rnnt_type, delay_penalty, "none")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)  # float64 rounding
    expected_grads = torch.autograd.grad(expected.sum(), (lm, am))
    for grad, expected_grad in zip(torch.autograd.grad(loss.sum(), (lm, am)), expected_grads):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def smoothed_log_probs(lm, am, lm_scale, am_scale):
    """The mix of the paper's section 3.1, as a dense (B, T, S+1, C) tensor."""
    unigram = lm.softmax(-1).mean((0, 1)).log()
    only_lm = lm.log_softmax(-1)[:, None]
    only_am = (am + unigram).log_softmax(-1)[:, :, None]
    return (1 - lm_scale - am_scale) * dense(lm, am).log_softmax(-1) + lm_scale * only_lm + am_scale * only_am


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("scales", [(0.25, 0.0), (0.0, 0.1), (0.3, 0.2), (0.5, 0.5)])
def test_smoothed_is_the_sum_over_paths_of_mixed_log_probabilities(rnnt_type, scales):
    lm, am, symbols, boundary = additive_case(seed=2)
    lm.requires_grad_(), am.requires_grad_()
    expected = loss_by_paths(smoothed_log_probs(lm, am, *scales), symbols, boundary, rnnt_type)
    loss = rnnt_loss_smoothed(lm, am, symbols, 0, *scales, boundary, rnnt_type, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)  # float64 rounding
    expected_grads = torch.autograd.grad(expected.sum(), (lm, am))
    for grad, expected_grad in zip(torch.autograd.grad(loss.sum(), (lm, am)), expected_grads):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def test_smoothed_with_scales_zero_is_simple():
    lm, am, symbols, boundary = additive_case(seed=3)
    simple = rnnt_loss_simple(lm, am, symbols, 0, boundary)
    assert torch.equal(rnnt_loss_smoothed(lm, am, symbols, 0, 0.0, 0.0, boundary), simple)


def test_gradients_are_finite_differences():
    lm, am, symbols, boundary = additive_case(seed=4)
    inputs = (lm.requires_grad_(), am.requires_grad_())
    assert torch.autograd.gradcheck(lambda lm, am: rnnt_loss_smoothed(lm, am, symbols, 0, 0.2, 0.1, boundary), inputs)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_return_grad_gives_the_occupation_of_the_arcs_and_leaves_the_loss_differentiable(rnnt_type):
    lm, am, symbols, boundary = additive_case(seed=5)
    am.requires_grad_()
    loss, (px_grad, py_grad) = rnnt_loss_smoothed(
        lm, am, symbols, 0, 0.25, 0.0, boundary, rnnt_type, reduction="sum", return_grad=True
    )
    assert torch.equal(loss, rnnt_loss_smoothed(lm, am, symbols, 0, 0.25, 0.0, boundary, rnnt_type, 0.0, "sum"))
    assert px_grad.shape == (5, 3, 5 + (rnnt_type == "regular")) and py_grad.shape == (5, 4, 5)
    emitted = torch.arange(3) >= boundary[:, :1]
    emitted &= torch.arange(3) < boundary[:, 2:3]
    torch.testing.assert_close(px_grad.sum(2), emitted.double(), rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(loss, am)
    assert grad.any() and grad.isfinite().all()


def test_arcs_are_log_probabilities_and_no_label_follows_the_last_frame():
    lm, am, symbols, boundary = additive_case(seed=6)
    px, py = get_rnnt_logprobs(lm, am, symbols, 0, boundary=boundary)
    log_probs = dense(lm, am).log_softmax(-1)
    for b, (_, _, _, t1) in enumerate(boundary.tolist()):
        assert (px[b, :, t1] == -torch.inf).all()
        for s, symbol in enumerate(symbols[b]):
            kept = [t for t in range(5) if t != t1]
            torch.testing.assert_close(px[b, s, kept], log_probs[b, kept, s, symbol], rtol=0, atol=1e-12)
    torch.testing.assert_close(py, log_probs[..., 0].transpose(1, 2), rtol=0, atol=1e-12)


def test_constants_added_to_either_part_change_nothing():
    lm, am, symbols, boundary = additive_case(seed=7)
    shifted = rnnt_loss_smoothed(lm + 300, am - 5000, symbols, 0, 0.2, 0.1, boundary)
    # rounding of numbers near 5000 in float64
    torch.testing.assert_close(shifted, rnnt_loss_smoothed(lm, am, symbols, 0, 0.2, 0.1, boundary), rtol=0, atol=1e-9)


def test_parts_that_share_no_likely_class_stay_finite():
    _, _, symbols, boundary = additive_case(seed=8)
    lm, am = torch.zeros(5, 4, 4), torch.zeros(5, 5, 4)
    lm[..., 0], am[..., 3] = 400.0, 400.0  # exp(-400) is 0 in float32
    lm.requires_grad_(), am.requires_grad_()
    loss = rnnt_loss_smoothed(lm, am, symbols, 0, 0.25, 0.1, boundary)
    loss.backward()
    assert loss.isfinite() and lm.grad.isfinite().all() and am.grad.isfinite().all()


def test_padding_and_batch_order_do_not_matter():
    lm, am, symbols, boundary = additive_case(seed=9)
    losses = rnnt_loss_smoothed(lm, am, symbols, 0, 0.25, 0.0, boundary, reduction="none")
    pad = torch.nn.functional.pad
    padded = pad(lm, (0, 0, 0, 2), value=9.0), pad(am, (0, 0, 0, 3), value=9.0), pad(symbols, (0, 2), value=1)
    longer = rnnt_loss_smoothed(*padded, 0, 0.25, 0.0, boundary, reduction="none")
    torch.testing.assert_close(longer, losses, rtol=0, atol=1e-12)  # another shape of matrix product
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = [tensor[order] for tensor in (lm, am, symbols)]
    torch.testing.assert_close(
        rnnt_loss_smoothed(*shuffled, 0, 0.25, 0.0, boundary[order], reduction="none"), losses[order]
    )


def test_empty_transcripts():
    am, lm = torch.randn(2, 5, 4), torch.randn(2, 1, 4)
    symbols = torch.empty(2, 0, dtype=torch.int64)
    loss, (px_grad, py_grad) = rnnt_loss_simple(lm, am, symbols, 0, reduction="none", return_grad=True)
    torch.testing.assert_close(loss, -(am + lm).log_softmax(-1)[..., 0].sum(1))
    assert px_grad.shape == (2, 0, 6)
    torch.testing.assert_close(py_grad, torch.ones(2, 1, 5))


def test_half_precision_input_under_autocast_is_computed_in_float32():
    lm, am, symbols, boundary = additive_case(seed=10)
    lm, am = lm.bfloat16(), am.bfloat16().requires_grad_()
    expected = rnnt_loss_smoothed(lm.float(), am.float(), symbols, 0, boundary=boundary)
    with torch.autocast("cpu", torch.bfloat16):
        loss = rnnt_loss_smoothed(lm, am, symbols, 0, boundary=boundary)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert am.grad.isfinite().all()


def test_bad_arguments_are_named():
    lm, am, symbols, boundary = additive_case(seed=11)
    with pytest.raises(ValueError, match=r"lm \(B, S\+1, C\) and am \(B, T, C\) do not fit"):
        rnnt_loss_simple(lm[..., :3], am, symbols, 0, boundary)
    with pytest.raises(ValueError, match="rnnt_type"):
        get_rnnt_logprobs_smoothed(lm, am, symbols, 0, rnnt_type="rnnt")
    with pytest.raises(ValueError, match="reduction"):
        rnnt_loss_smoothed(lm, am, symbols, 0, reduction="batch")
