"""The tiled loss of the tanh joiner: equal to the loss of its logits, for every way to cut the lattice into tiles."""

import pytest
import torch
from support.loss_paths import TYPES, LargestTensor, case, loss_by_paths

from residualformer.kernels import tanh_joiner
from residualformer.loss import get_rnnt_prune_ranges, rnnt_loss_pruned, rnnt_loss_simple
from residualformer.loss.fused_joiner import exact_joiner_loss, pruned_joiner_loss

D = 6


def problem(seed=0, C=4, dtype=torch.float64):
    """am (5, 5, D), lm (5, 4, D), weight (C, D), bias (C,), symbols (5, 3) and the ragged boundary of `case`."""
    _, symbols, boundary = case(seed, C=C)
    generator = torch.Generator().manual_seed(seed)
    shapes = (5, 5, D), (5, 4, D), (C, D), (C,)
    joiner = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [each.requires_grad_() for each in joiner], symbols, boundary


def logits_of(am, lm, weight, bias):
    return torch.tanh(am[:, :, None] + lm[:, None]) @ weight.t() + bias


def ranges_of(am, lm, symbols, boundary, rnnt_type, s_range):
    with torch.no_grad():
        _, grads = rnnt_loss_simple(lm[..., :4], am[..., :4], symbols, 0, boundary, rnnt_type, return_grad=True)
    return get_rnnt_prune_ranges(*grads, boundary, s_range)


def unfused(joiner, symbols, ranges, *args):
    logits = logits_of(*joiner)
    kept = logits.gather(2, ranges[..., None].expand(-1, -1, -1, logits.shape[3]))
    return rnnt_loss_pruned(kept, symbols, ranges, *args)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.3])
def test_exact_loss_and_gradients_are_those_of_all_paths(rnnt_type, delay_penalty):
    joiner, symbols, boundary = problem()
    fused = exact_joiner_loss(*joiner, symbols, 0, boundary, rnnt_type, delay_penalty, "none")
    by_paths = loss_by_paths(logits_of(*joiner).log_softmax(-1), symbols, boundary, rnnt_type, delay_penalty)
    torch.testing.assert_close(fused, by_paths, rtol=1e-12, atol=1e-12)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)  # each utterance's gradient counts differently
    ours, theirs = (torch.autograd.grad(loss @ weights, joiner) for loss in (fused, by_paths))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("s_range", [2, 3, 10])  # the last is wider than S + 1
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("tile", [1, 7, 1000])
def test_pruned_loss_is_that_of_its_logits(rnnt_type, s_range, reduction, tile, monkeypatch):
    monkeypatch.setitem(tanh_joiner.TILE, "cpu", tile)
    joiner, symbols, boundary = problem(seed=1)
    ranges = ranges_of(*joiner[:2], symbols, boundary, rnnt_type, s_range)
    args = (0, boundary, rnnt_type, 0.1, reduction)
    fused, plain = pruned_joiner_loss(*joiner, symbols, ranges, *args), unfused(joiner, symbols, ranges, *args)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    if fused.isfinite().all():  # `modified` with 2 positions leaves some utterances without a path
        ours, theirs = (torch.autograd.grad(loss.sum(), joiner) for loss in (fused, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_equal_finite_differences():
    joiner, symbols, boundary = problem(seed=2)

    def loss(*joiner):
        return exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")

    assert torch.autograd.gradcheck(loss, joiner)


def test_no_bias_is_a_bias_of_zeros():
    (am, lm, weight, bias), symbols, boundary = problem(seed=3)
    none = exact_joiner_loss(am, lm, weight, None, symbols, 0, boundary)
    assert torch.equal(none, exact_joiner_loss(am, lm, weight, torch.zeros_like(bias), symbols, 0, boundary))


def test_padding_and_order_do_not_matter():
    joiner, symbols, boundary = problem(seed=4)
    am, lm, weight, bias = joiner
    plain = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")
    garbage_am, garbage_lm = torch.full((5, 8, D), torch.nan), torch.full((5, 6, D), torch.inf)
    garbage_am, garbage_lm = garbage_am.double(), garbage_lm.double()
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        garbage_am[b, t0:t1], garbage_lm[b, s0 : s1 + 1] = am[b, t0:t1], lm[b, s0 : s1 + 1]
    order = torch.tensor([3, 0, 4, 1, 2])
    wider = torch.nn.functional.pad(symbols, (0, 2), value=1)
    garbage_am, garbage_lm = garbage_am.detach().requires_grad_(), garbage_lm.detach().requires_grad_()
    other = exact_joiner_loss(
        garbage_am[order], garbage_lm[order], weight, bias, wider[order], 0, boundary[order], reduction="none"
    )
    torch.testing.assert_close(other, plain[order], rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(other.sum(), (garbage_am, garbage_lm, weight, bias))
    theirs = torch.autograd.grad(plain.sum(), joiner)
    torch.testing.assert_close(ours[2:], theirs[2:], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours[0][:, :5], theirs[0], rtol=1e-10, atol=1e-12)
    assert not ours[0][:, 5:].any() and not ours[1][:, 4:].any()


def test_an_utterance_without_frames_or_labels_costs_what_it_does_alone():
    joiner, symbols, _ = problem(seed=5)
    boundary = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 3, 0], [0, 0, 3, 1], [0, 0, 3, 5]])
    loss = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")
    logp = logits_of(*joiner).log_softmax(-1)
    assert loss[0] == 0 and loss[2] == torch.inf  # nothing to say; labels, but no frame to say them in
    torch.testing.assert_close(loss[1], -logp[1, 0, 0, 0], rtol=1e-12, atol=0)
    modified = exact_joiner_loss(*joiner, symbols, 0, boundary, "modified", reduction="none")
    assert modified[3] == torch.inf  # three labels that consume a frame each, in one frame


def test_float32_is_as_good_as_the_logits_path():
    """Both are float32 all through; they differ by the order of sums over 50 classes and 20 dimensions."""
    joiner, symbols, boundary = problem(seed=6, dtype=torch.float32)
    fused = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="sum")
    exact = [each.detach().double().requires_grad_() for each in joiner]
    double = exact_joiner_loss(*exact, symbols, 0, boundary, reduction="sum")
    torch.testing.assert_close(fused.double(), double, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(fused, joiner), torch.autograd.grad(double, exact), strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


def test_bf16_products_bound_the_error():
    """A factor rounded to 8 bits is off by 2^-9 at most, a product of two by 2^-8; sums of D of them cancel partly.

    So a logit of size |h| |w| is off by at most 2^-8 |h| |w|, and so is a gradient relative to its own size, if no
    class has a gradient that is a small difference of large ones. CPUs without bf16 products make no error at all.
    """
    joiner, symbols, boundary = problem(seed=7, C=40, dtype=torch.float32)
    exact = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = exact_joiner_loss(*joiner, symbols, 0, boundary, reduction="none")
        rough = torch.autograd.grad(rounded.sum(), joiner)
    assert rounded.dtype == torch.float32
    weight = joiner[2]
    per_node = 2 * 2**-8 * weight.norm(dim=1).max() * D**0.5  # a label's logit and the normalizer's
    nodes = boundary[:, 2] - boundary[:, 0] + boundary[:, 3] - boundary[:, 1]
    assert ((rounded - exact).abs() <= per_node * nodes).all()
    for ours, theirs in zip(rough, torch.autograd.grad(exact.sum(), joiner), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


def test_nothing_grows_with_the_vocabulary_but_a_tile_and_the_gradient(monkeypatch):
    N, T, S, C = 4, 40, 9, 600
    monkeypatch.setitem(tanh_joiner.TILE, "cpu", 64)
    shapes = (N, T, D), (N, S + 1, D), (C, D), (C,)
    joiner = [torch.randn(shape, requires_grad=True) for shape in shapes]
    symbols = torch.randint(1, C, (N, S))
    with LargestTensor() as seen:
        exact_joiner_loss(*joiner, symbols, 0).backward()
    assert seen.largest <= 64 * C < N * T * (S + 1) * C / 20
    assert all(each.grad is not None for each in joiner)


def test_arguments_that_do_not_fit_are_refused():
    (am, lm, weight, bias), symbols, boundary = problem()
    with pytest.raises(ValueError, match=r"do not fit: got \(5, 5, 6\), \(5, 4, 5\)"):
        exact_joiner_loss(am, lm[..., :5], weight, bias, symbols, 0, boundary)
    with pytest.raises(ValueError, match=r"ranges must be \(B, T, R\)"):
        pruned_joiner_loss(am, lm, weight, bias, symbols, torch.zeros(5, 4, 2, dtype=torch.int64), 0, boundary)
    with pytest.raises(ValueError, match="symbols must be"):
        exact_joiner_loss(am, lm, weight, bias, symbols + 9, 0, boundary)
