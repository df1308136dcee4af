"""The pruned loss: equal to the exact one where nothing is pruned, to the sum over kept paths where something is."""

import pytest
import torch
from support.loss_paths import TYPES, additive_case, case, loss_by_paths

from residualformer.loss import (
    do_rnnt_pruning,
    get_rnnt_prune_ranges,
    rnnt_loss,
    rnnt_loss_pruned,
    rnnt_loss_simple,
)


def random_ranges(rnnt_type, s_range, B=6, T=9, S=7, seed=0):
    """Ranges of a random problem, its boundary and its occupations."""
    generator = torch.Generator().manual_seed(seed)
    lm, am = (4 * torch.randn(B, n, 5, generator=generator) for n in (S + 1, T))
    symbols = torch.randint(1, 5, (B, S), generator=generator)
    frames = torch.randint(S, T + 1, (B,), generator=generator)
    labels = torch.randint(0, S + 1, (B,), generator=generator)
    boundary = torch.stack([0 * labels, 0 * frames, labels, frames], dim=1)
    _, grads = rnnt_loss_simple(lm, am, symbols, 0, boundary, rnnt_type, return_grad=True)
    return get_rnnt_prune_ranges(*grads, boundary, s_range), boundary, grads


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("s_range", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_ranges_keep_a_path(rnnt_type, s_range, seed):
    ranges, boundary, _ = random_ranges(rnnt_type, s_range, seed=seed)
    R = min(s_range, 8)
    assert ranges.shape == (6, 9, R) and ranges.dtype == torch.int64
    starts = ranges[:, :, 0]
    assert torch.equal(ranges, starts[:, :, None] + torch.arange(R))  # consecutive positions
    assert (starts[:, 0] == 0).all() and (ranges[:, :, -1] <= 7).all()
    rises = starts.diff(dim=1)
    assert (rises >= 0).all() and (rises <= (R - 1 if rnnt_type == "regular" else 1)).all()
    for b, (_, _, s1, t1) in enumerate(boundary.tolist()):
        assert s1 in ranges[b, t1 - 1]
    symbols = torch.ones(6, 7, dtype=torch.int64)
    loss = rnnt_loss_pruned(torch.zeros(6, 9, R, 5), symbols, ranges, 0, boundary, rnnt_type, reduction="none")
    if rnnt_type == "regular" or s_range > 2:
        assert loss.isfinite().all()


def test_ranges_hold_the_occupation_where_a_path_is_certain():
    # one utterance of 12 frames and 6 labels whose frames are fixed: two labels at frames 1, 5 and 9
    S, T, frames = 6, 12, [1, 1, 5, 5, 9, 9]
    px_grad, py_grad = torch.zeros(1, S, T + 1), torch.zeros(1, S + 1, T)
    px_grad[0, range(S), frames] = 1
    position = [sum(frame <= t for frame in frames) for t in range(T)]
    py_grad[0, position, range(T)] = 1
    ranges = get_rnnt_prune_ranges(px_grad, py_grad, torch.tensor([[0, 0, S, T]]), 3)
    for t in range(T):
        assert position[t] in ranges[0, t]
    for s, t in enumerate(frames):
        assert s in ranges[0, t] and s + 1 in ranges[0, t]


def test_a_range_too_narrow_for_an_utterance_is_widened_with_a_warning():
    # 7 labels in 2 frames: position 7 must be reached from 0 in one rise of at most R-1, within a window of R
    px_grad, py_grad = torch.zeros(1, 7, 3), torch.zeros(1, 8, 2)
    boundary = torch.tensor([[0, 0, 7, 2]])
    with pytest.warns(UserWarning, match="widened to 5"):
        ranges = get_rnnt_prune_ranges(px_grad, py_grad, boundary, 2)
    loss = rnnt_loss_pruned(torch.zeros(1, 2, 5, 3), torch.ones(1, 7, dtype=torch.int64), ranges, 0, boundary)
    assert ranges.tolist() == [[[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]] and loss.isfinite()


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_pruned_with_the_whole_range_is_exact(rnnt_type):
    logits, symbols, boundary = case(seed=1)
    logits.requires_grad_()
    _, grads = rnnt_loss_simple(logits[:, 0], logits[:, :, 0], symbols, 0, boundary, rnnt_type, return_grad=True)
    ranges = get_rnnt_prune_ranges(*grads, boundary, 4)
    exact = rnnt_loss(logits, symbols, 0, boundary, rnnt_type, 0.1, "none")
    pruned = rnnt_loss_pruned(logits, symbols, ranges, 0, boundary, rnnt_type, 0.1, "none")
    assert torch.equal(pruned, exact)
    (exact_grad,) = torch.autograd.grad(exact.sum(), logits)
    (pruned_grad,) = torch.autograd.grad(pruned.sum(), logits)
    assert torch.equal(pruned_grad, exact_grad)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_pruned_is_the_sum_over_the_paths_within_the_ranges(rnnt_type):
    lm, am, symbols, boundary = additive_case(seed=2)
    boundary = boundary[[0, 1, 2, 0, 4]]  # ranges begin at label 0
    _, grads = rnnt_loss_simple(lm, am, symbols, 0, boundary, rnnt_type, return_grad=True)
    ranges = get_rnnt_prune_ranges(*grads, boundary, 2 if rnnt_type == "regular" else 3)
    logits = (am[:, :, None] + lm[:, None]).requires_grad_()
    kept = torch.zeros(logits.shape[:3], dtype=torch.bool).scatter(2, ranges, True)
    log_probs = logits.log_softmax(-1).masked_fill(~kept[..., None], -1e300)  # -inf would make the gradients nan
    expected = loss_by_paths(log_probs, symbols, boundary, rnnt_type)
    am_pruned, lm_pruned = do_rnnt_pruning(am, lm, ranges)
    pruned = rnnt_loss_pruned(am_pruned + lm_pruned, symbols, ranges, 0, boundary, rnnt_type, reduction="none")
    torch.testing.assert_close(pruned, expected, rtol=0, atol=1e-12)  # float64 rounding
    assert (pruned > rnnt_loss(logits, symbols, 0, boundary, rnnt_type, reduction="none") - 1e-12).all()

    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    pruned_logits = logits.detach().gather(2, ranges[..., None].expand(-1, -1, -1, 4)).requires_grad_()
    loss = rnnt_loss_pruned(pruned_logits, symbols, ranges, 0, boundary, rnnt_type, reduction="sum")
    (grad,) = torch.autograd.grad(loss, pruned_logits)
    expected_grad = expected_grad.gather(2, ranges[..., None].expand(-1, -1, -1, 4))
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


def test_gradient_is_a_finite_difference():
    ranges, boundary, _ = random_ranges("regular", 3, B=2, T=6, S=4)
    symbols = torch.randint(1, 5, (2, 4), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rnnt_loss_pruned(x, symbols, ranges, 0, boundary, "regular", 0.1), logits)


def test_do_rnnt_pruning_picks_positions_and_sends_gradients_back_to_them():
    ranges, _, _ = random_ranges("regular", 3, B=2, T=6, S=4)
    am, lm = torch.randn(2, 6, 7), torch.randn(2, 5, 8, requires_grad=True)
    am_pruned, lm_pruned = do_rnnt_pruning(am, lm, ranges)
    assert am_pruned.shape == (2, 6, 3, 7) and lm_pruned.shape == (2, 6, 3, 8)
    for b in range(2):
        for t in range(6):
            assert torch.equal(lm_pruned[b, t], lm[b, ranges[b, t]])
            assert torch.equal(am_pruned[b, t], am[b, t].expand(3, 7))
    lm_pruned.sum().backward()
    counts = torch.stack([torch.bincount(row.flatten(), minlength=5) for row in ranges]).float()
    assert torch.equal(lm.grad, counts[:, :, None].expand(2, 5, 8))


def test_hat_is_the_regular_loss_of_its_own_log_probabilities():
    logits, symbols, boundary = case(seed=3)
    ranges = torch.arange(4).expand(5, 5, 4)
    blank = logits[..., :1].sigmoid()
    probs = torch.cat([blank, (1 - blank) * logits[..., 1:].softmax(-1)], dim=-1)
    torch.testing.assert_close(probs.sum(-1), torch.ones(5, 5, 4, dtype=torch.float64))
    expected = loss_by_paths(probs.log(), symbols, boundary)
    loss = rnnt_loss_pruned(logits, symbols, ranges, 0, boundary, reduction="none", use_hat_loss=True)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="class 0"):
        rnnt_loss_pruned(logits, symbols, ranges, 1, boundary, use_hat_loss=True)


def test_empty_transcripts():
    am, lm = torch.randn(2, 5, 4), torch.randn(2, 1, 4)
    symbols, boundary = torch.empty(2, 0, dtype=torch.int64), torch.tensor([[0, 0, 0, 5], [0, 0, 0, 2]])
    simple, grads = rnnt_loss_simple(lm, am, symbols, 0, boundary, reduction="none", return_grad=True)
    ranges = get_rnnt_prune_ranges(*grads, boundary, 5)
    assert torch.equal(ranges, torch.zeros(2, 5, 1, dtype=torch.int64))
    am_pruned, lm_pruned = do_rnnt_pruning(am, lm, ranges)
    pruned = rnnt_loss_pruned(am_pruned + lm_pruned, symbols, ranges, 0, boundary, reduction="none")
    torch.testing.assert_close(pruned, simple)


def test_half_precision_input_under_autocast_is_computed_in_float32():
    ranges, boundary, _ = random_ranges("regular", 3)
    logits, symbols = torch.randn(6, 9, 3, 5).bfloat16().requires_grad_(), torch.ones(6, 7, dtype=torch.int64)
    expected = rnnt_loss_pruned(logits.float(), symbols, ranges, 0, boundary)
    with torch.autocast("cpu", torch.bfloat16):
        loss = rnnt_loss_pruned(logits, symbols, ranges, 0, boundary)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_bad_arguments_are_named():
    ranges, boundary, (px_grad, py_grad) = random_ranges("regular", 3)
    symbols = torch.ones(6, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match="s_range is 1"):
        get_rnnt_prune_ranges(px_grad, py_grad, boundary, 1)
    with pytest.raises(ValueError, match="px_grad and py_grad do not fit"):
        get_rnnt_prune_ranges(px_grad, py_grad[:, 1:], boundary, 3)
    with pytest.raises(ValueError, match=r"am \(B, T, D\), lm \(B, S\+1, P\) and ranges"):
        do_rnnt_pruning(torch.zeros(6, 8, 2), torch.zeros(6, 8, 2), ranges)
    with pytest.raises(ValueError, match=r"logits \(B, T, R, C\), symbols \(B, S\) and ranges"):
        rnnt_loss_pruned(torch.zeros(6, 9, 4, 5), symbols, ranges, 0, boundary)
    with pytest.raises(ValueError, match="reduction"):
        rnnt_loss_pruned(torch.zeros(6, 9, 3, 5), symbols, ranges, 0, boundary, reduction="all")
