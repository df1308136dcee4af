"""The additive joiner's loss from its inputs: equal to the losses of the explicit logits, however they are cut up."""

import pytest
import torch
import torch.nn.functional as F
from support.loss_paths import TYPES, LargestTensor, case

from residualformer.kernels import additive_joiner, additive_joiner_padded, projection
from residualformer.loss import fused_simple, rnnt_loss_simple, rnnt_loss_smoothed, simple_joiner_loss
from residualformer.loss.arcs import NotFiniteError

E, P = 5, 6
SCALES = [(0.0, 0.0), (0.25, 0.0), (0.0, 0.1), (0.3, 0.2), (0.5, 0.5)]


def problem(seed=0, C=7, dtype=torch.float64):
    """encoded, predicted, both weights and biases; symbols (5, 3) and the ragged boundary of `case`."""
    _, symbols, boundary = case(seed, C=C)
    generator = torch.Generator().manual_seed(seed)
    shapes = (5, 5, E), (5, 4, P), (C, E), (C,), (C, P), (C,)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [each.requires_grad_() for each in inputs], symbols, boundary


def explicit(inputs, *args, **options):
    encoded, predicted, *linears = inputs
    return rnnt_loss_smoothed(F.linear(predicted, *linears[2:]), F.linear(encoded, *linears[:2]), *args, **options)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """No batch is small enough to be treated otherwise."""
    monkeypatch.setattr(fused_simple, "SMALL", 0)


@pytest.fixture(params=["small", "whole", "cut", "padded", "padded-cut"])
def cut(request, monkeypatch):
    """The way of a small batch; all at once; groups of one or two utterances, blocks of 64 classes, chunks of a row.

    Or with the padding, as on a GPU, all at once or in blocks of two utterances.
    """
    if request.param == "small":
        monkeypatch.setattr(fused_simple, "SMALL", 10_000)
    if request.param.startswith("padded"):
        monkeypatch.setattr(fused_simple, "takes_padding", lambda x: True)
    if request.param == "padded-cut":
        monkeypatch.setattr(additive_joiner_padded, "BLOCK", 2 * 8 * 7)
    if request.param == "cut":
        monkeypatch.setitem(additive_joiner.FRAMES, "cpu", 6)
        monkeypatch.setitem(projection.BLOCK, "cpu", 1)
        monkeypatch.setattr(projection, "CHUNK", 100)
    return request.param


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("scales", SCALES)
def test_value_and_gradients_are_those_of_the_explicit_logits(rnnt_type, scales, cut):
    inputs, symbols, boundary = problem(C=150 if cut == "cut" else 7)
    args = symbols, 0, *scales, boundary, rnnt_type, 0.1, "none"
    expected = explicit(inputs, *args)
    loss = simple_joiner_loss(*inputs, symbols, 0, boundary, *scales, rnnt_type, 0.1, "none")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)  # float64 rounding
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0], dtype=torch.float64)  # each utterance counts differently
    ours, theirs = (torch.autograd.grad(each @ weights, inputs) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_scales_it_is_the_simple_loss(reduction, cut):
    inputs, symbols, boundary = problem(seed=1)
    lm, am = F.linear(inputs[1], *inputs[4:]), F.linear(inputs[0], *inputs[2:4])
    expected = rnnt_loss_simple(lm, am, symbols, 0, boundary, reduction=reduction)
    loss = simple_joiner_loss(*inputs, symbols, 0, boundary, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    whole = simple_joiner_loss(*inputs, symbols, 0, reduction=reduction)  # no boundary
    torch.testing.assert_close(whole, rnnt_loss_simple(lm, am, symbols, 0, reduction=reduction), rtol=1e-12, atol=0)


def test_gradients_are_finite_differences(cut):
    inputs, symbols, boundary = problem(seed=2, C=4)

    def loss(*inputs):
        return simple_joiner_loss(*inputs, symbols, 0, boundary, 0.2, 0.1, reduction="none")

    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_occupations_are_those_of_the_explicit_logits(rnnt_type, cut):
    inputs, symbols, boundary = problem(seed=3)
    loss, ours = simple_joiner_loss(
        *inputs, symbols, 0, boundary, 0.25, 0.1, rnnt_type, reduction="sum", return_grad=True
    )
    _, theirs = explicit(inputs, symbols, 0, 0.25, 0.1, boundary, rnnt_type, return_grad=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    loss.backward()  # it stays differentiable
    assert all(each.grad.any() for each in inputs)


@pytest.mark.parametrize("biases", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("am_only_scale", [0.0, 0.1])
def test_a_missing_bias_is_one_of_zeros(biases, am_only_scale, cut):
    inputs, symbols, boundary = problem(seed=4)
    without = [x if index not in (3, 5) or biases[index == 5] else None for index, x in enumerate(inputs)]
    zeros = [torch.zeros_like(x) if given is None else x for x, given in zip(inputs, without)]
    loss, expected = (simple_joiner_loss(*each, symbols, 0, boundary, 0.1, am_only_scale) for each in (without, zeros))
    assert torch.equal(loss, expected)
    kept = [x for x in without if x is not None]
    assert all(map(torch.equal, torch.autograd.grad(loss, kept), torch.autograd.grad(expected, kept)))


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (3,), (4,), (5,), (0, 2, 3), (1, 4, 5)])
def test_what_needs_no_gradient_gets_none_and_leaves_the_others_alone(frozen, cut):
    inputs, symbols, boundary = problem(seed=5)
    expected = torch.autograd.grad(simple_joiner_loss(*inputs, symbols, 0, boundary, 0.2, 0.1), inputs)
    for index in frozen:
        inputs[index].requires_grad_(False)
    simple_joiner_loss(*inputs, symbols, 0, boundary, 0.2, 0.1).backward()
    for index, (each, grad) in enumerate(zip(inputs, expected)):
        assert each.grad is None if index in frozen else torch.equal(each.grad, grad)


def test_padding_is_not_looked_at_and_the_order_of_the_batch_does_not_matter(cut):
    inputs, symbols, boundary = problem(seed=6)
    losses = simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25, reduction="none")
    expected = torch.autograd.grad(losses.sum(), inputs)
    encoded, predicted = torch.full((5, 8, E), torch.nan), torch.full((5, 6, P), torch.nan)
    encoded, predicted = encoded.double(), predicted.double()
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        encoded[b, t0:t1], predicted[b, s0 : s1 + 1] = inputs[0][b, t0:t1], inputs[1][b, s0 : s1 + 1]
    order, back = torch.tensor([4, 2, 0, 1, 3]), torch.tensor([2, 3, 1, 4, 0])
    padded = [encoded.detach()[order].requires_grad_(), predicted.detach()[order].requires_grad_(), *inputs[2:]]
    longer = F.pad(symbols, (0, 2), value=1)[order]
    other = simple_joiner_loss(*padded, longer, 0, boundary[order], 0.25, reduction="none")
    torch.testing.assert_close(other[back], losses, rtol=1e-12, atol=0)
    grads = list(torch.autograd.grad(other.sum(), padded))
    assert not grads[0][:, 5:].any() and not grads[1][:, 4:].any()
    grads[:2] = grads[0][back, :5], grads[1][back, :4]
    torch.testing.assert_close(grads, list(expected), rtol=0, atol=1e-12)


def test_empty_transcripts_and_utterances_without_frames(cut):
    inputs, symbols, _ = problem(seed=7)
    boundary = torch.tensor([[0, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 5], [2, 1, 2, 3], [0, 0, 3, 5]])
    loss = simple_joiner_loss(*inputs, symbols, 0, boundary, reduction="none")
    assert loss[0] == 0 and loss[1] == torch.inf  # nothing to say; labels, but no frame to say them in
    loss[[0, 2, 3, 4]].sum().backward()
    assert all(each.grad.isfinite().all() for each in inputs) and not inputs[0].grad[:2].any()
    inputs[1] = inputs[1][:, :1]  # no labels in the whole batch
    nothing = simple_joiner_loss(*inputs, symbols[:, :0], 0, reduction="none")
    logits = F.linear(inputs[0], *inputs[2:4]) + F.linear(inputs[1], *inputs[4:])
    torch.testing.assert_close(nothing, -logits.log_softmax(-1)[..., 0].sum(1), rtol=1e-12, atol=0)
    none_at_all = simple_joiner_loss(*inputs, symbols[:, :0], 0, torch.zeros(5, 4, dtype=torch.int64))
    assert none_at_all == 0


def test_maxima_that_rise_from_block_to_block_and_impossible_classes(monkeypatch):
    """Logits up to 1000 in rising order, and 64 classes at the start whose logit is -inf."""
    monkeypatch.setitem(projection.BLOCK, "cpu", 1)
    inputs, symbols, boundary = problem(seed=8, C=200)
    with torch.no_grad():
        inputs[3].copy_(torch.linspace(0, 1000, 200))
        inputs[3][:64] = -torch.inf
        symbols = symbols % 100 + 100
    loss = simple_joiner_loss(*inputs, symbols, 199, boundary, 0.25, reduction="sum")
    expected = explicit(inputs, symbols, 199, 0.25, 0.0, boundary, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(each, inputs) for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)  # sums of numbers near 1000


def test_parts_that_share_no_likely_class_stay_finite(cut):
    inputs, symbols, boundary = problem(seed=9, dtype=torch.float32)
    with torch.no_grad():
        inputs[5][0], inputs[3][3] = 400.0, 400.0  # exp(-400) is 0 in float32
    loss = simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25, 0.1)
    loss.backward()
    assert loss.isfinite() and all(each.grad.isfinite().all() for each in inputs)


def test_a_frame_that_is_not_finite_shows_in_the_loss_of_its_utterance_alone(cut):
    inputs, symbols, boundary = problem(seed=10)
    with torch.no_grad():
        inputs[0][1, 2, 0] = torch.nan
    with pytest.raises(NotFiniteError) as error:
        simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25)
    assert error.value.rows == [1]


@pytest.mark.parametrize("scales", [(0.25, 0.0), (0.2, 0.1)])
def test_float32_is_float64_but_for_rounding(scales, cut):
    """Logits near 16 are off by 1e-6 in float32, and a path sums up eight of them."""
    inputs, symbols, boundary = problem(seed=11, C=300, dtype=torch.float32)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    loss, expected = (simple_joiner_loss(*each, symbols, 0, boundary, *scales) for each in (inputs, exact))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, exact)):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("inside", [True, False], ids=["backward-in-autocast", "backward-outside"])
def test_bf16_products_bound_the_error(inside, cut):
    """A logit of products of two factors, each off by 2^-9 at most, is off by 2^-8 |x| |w| at most.

    Gradients are sums of such products with differences of probabilities, off by about as much, relatively. CPUs
    without bf16 instructions make no error at all.
    """
    inputs, symbols, boundary = problem(seed=12, C=300, dtype=torch.float32)
    exact = simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25, 0.1, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = simple_joiner_loss(*inputs, symbols, 0, boundary, 0.25, 0.1, reduction="none")
        grads = torch.autograd.grad(rounded.sum(), inputs) if inside else None
    grads = grads or torch.autograd.grad(rounded.sum(), inputs)
    norms = [x.detach().norm(dim=-1).max() for x in inputs if x.ndim > 1]
    logit = 2**-8 * (norms[0] * norms[2] + norms[1] * norms[3])
    arcs = boundary[:, 2] - boundary[:, 0] + boundary[:, 3] - boundary[:, 1]
    assert rounded.dtype == torch.float32
    assert ((rounded - exact).abs() <= 2 * logit * arcs).all()  # a label's logit and the normalizer's
    for ours, theirs in zip(grads, torch.autograd.grad(exact.sum(), inputs), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


def test_half_precision_input_is_computed_in_float32(cut):
    inputs, symbols, boundary = problem(seed=13)
    half = [each.detach().bfloat16().requires_grad_() for each in inputs]
    loss = simple_joiner_loss(*half, symbols, 0, boundary, 0.25, 0.1)
    expected = simple_joiner_loss(*[each.float() for each in half], symbols, 0, boundary, 0.25, 0.1)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert all(each.grad.dtype == torch.bfloat16 and each.grad.isfinite().all() for each in half)


@pytest.mark.parametrize("am_only_scale", [0.0, 0.1])
def test_no_tensor_is_larger_than_a_block_and_a_gradient(am_only_scale, monkeypatch):
    N, T, S, C = 4, 50, 9, 3000
    monkeypatch.setitem(projection.BLOCK, "cpu", 10_000)
    shapes = (N, T, E), (N, S + 1, P), (C, E), (C,), (C, P), (C,)
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    symbols = torch.randint(1, C, (N, S))
    with LargestTensor() as seen:
        simple_joiner_loss(*inputs, symbols, 0, None, 0.25, am_only_scale).backward()
    assert seen.largest == C * P  # the gradient of predictor_weight
    assert 5 * seen.largest < N * (S + 1) * C and all(each.grad is not None for each in inputs)


def test_arguments_that_do_not_fit_are_named():
    inputs, symbols, boundary = problem(seed=14)
    with pytest.raises(ValueError, match=r"do not fit: got \(5, 5, 5\), \(5, 4, 6\), \(7, 5\), \(7,\), \(6, 6\)"):
        simple_joiner_loss(*inputs[:4], inputs[4][:6], inputs[5], symbols, 0, boundary)
    with pytest.raises(ValueError, match="do not fit"):
        simple_joiner_loss(inputs[0][0], *inputs[1:], symbols, 0, boundary)
    with pytest.raises(ValueError, match="of one type: got torch.float32, torch.float64"):
        simple_joiner_loss(inputs[0].float(), *inputs[1:], symbols, 0, boundary)
    with pytest.raises(ValueError, match="rnnt_type"):
        simple_joiner_loss(*inputs, symbols, 0, boundary, rnnt_type="rnnt")
    with pytest.raises(ValueError, match="reduction"):
        simple_joiner_loss(*inputs, symbols, 0, boundary, reduction="batch")
