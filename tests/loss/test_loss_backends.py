"""The table of back-ends, and every installed one against this package."""

import importlib
import inspect
import sys

import pytest
import torch
from support.loss_paths import additive_case, case

import residualformer.loss as ours
from residualformer.errors import UserError
from residualformer.loss.backends import BACKENDS, Backend, get_backend
from residualformer.optional import is_installed


@pytest.fixture
def fake_k2(tmp_path, monkeypatch):
    """A module called k2 whose exact loss is ours plus one."""
    names = "rnnt_loss_simple, rnnt_loss_smoothed, rnnt_loss_pruned"
    (tmp_path / "k2.py").write_text(
        f"from residualformer.loss import {names}\nimport residualformer.loss as ours\n__version__ = '1.24.4.dev1'\n"
        "def rnnt_loss(logits, *args, **kwargs):\n"
        "    assert logits.dtype.itemsize > 2\n"
        "    return ours.rnnt_loss(logits, *args, **kwargs) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "k2", raising=False)
    yield tmp_path / "k2.py"
    sys.modules.pop("k2", None)


def test_torch_is_always_there_with_every_function():
    backend = get_backend("torch")
    for name in ("rnnt_loss", "rnnt_loss_simple", "rnnt_loss_smoothed", "rnnt_loss_pruned"):
        assert getattr(backend, name) is getattr(ours, name)
    assert backend.get_rnnt_prune_ranges is ours.get_rnnt_prune_ranges
    assert backend.do_rnnt_pruning is ours.do_rnnt_pruning


def test_auto_is_torch(fake_k2):
    assert get_backend("auto").name == "torch"


def test_k2_is_fed_float32(fake_k2):
    backend = get_backend("k2")
    assert backend.name == "k2"
    logits, symbols, boundary = case(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = backend.rnnt_loss(logits.bfloat16(), symbols, 0, boundary)
    assert loss == ours.rnnt_loss(logits.bfloat16(), symbols, 0, boundary) + 1


def test_a_broken_k2_is_a_user_error(fake_k2):
    fake_k2.write_text("raise ImportError('k2 was built for another torch')")
    with pytest.raises(UserError, match="does not import.*another torch"):
        get_backend("k2")


def test_an_unknown_back_end_is_answered_with_the_table():
    with pytest.raises(UserError, match="(?s)'touch'; it must be auto, torch, k2, torchaudio.*mean 'torch'.*k2") as e:
        get_backend("touch")
    assert all(name in str(e.value) for name in BACKENDS)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "torch"])
def test_a_missing_back_end_is_answered_with_how_to_get_it(name):
    if is_installed(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(UserError, match=f"(?s)'{name}' cannot be used.*pip install {name}.*torch: always there"):
        get_backend(name)


def test_a_function_that_a_back_end_lacks_is_a_user_error():
    backend = Backend.from_losses_of_logits("torchaudio", {"rnnt_loss": ours.rnnt_loss})
    assert backend.rnnt_loss is ours.rnnt_loss
    with pytest.raises(UserError, match="'torchaudio' has no rnnt_loss_pruned, only rnnt_loss"):
        backend.rnnt_loss_pruned()
    with pytest.raises(UserError, match="'torchaudio' has no rnnt_loss_smoothed, only rnnt_loss"):
        backend.simple_joiner_loss(*joiner_problem()[0], torch.ones(5, 3, dtype=torch.int64), 0)
    with pytest.raises(AttributeError):
        _ = backend.no_such_function


def assert_same(loss, expected, *inputs):
    """Values to float32's resolution; gradients, which are probabilities, to 1e-5."""
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(value.sum(), inputs, allow_unused=True) for value in (loss, expected)]
    for grad, expected_grad in zip(*grads):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["k2", "torchaudio", "fast_rnnt"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_exact_losses_agree(name, reduction):
    module = pytest.importorskip(name)
    backend = get_backend(name) if name in BACKENDS else module
    logits, symbols, boundary = case(seed=2)
    boundary[3] = boundary[1]  # torchaudio's lattices begin at 0
    logits = logits.float().requires_grad_()
    expected = ours.rnnt_loss(logits, symbols, 0, boundary, reduction=reduction)
    assert_same(backend.rnnt_loss(logits, symbols, 0, boundary=boundary, reduction=reduction), expected, logits)


def test_torchaudio_refuses_what_it_cannot_do():
    pytest.importorskip("torchaudio")
    logits, symbols, boundary = case(seed=3)  # begins late
    for change in ({"boundary": boundary}, {"rnnt_type": "modified"}, {"delay_penalty": 0.1}):
        with pytest.raises(ValueError, match="torchaudio's loss knows only"):
            get_backend("torchaudio").rnnt_loss(logits.float(), symbols, 0, **change)


@pytest.mark.parametrize("name", ["k2", "fast_rnnt"])
def test_additive_and_pruned_losses_agree(name):
    module = pytest.importorskip(name)
    lm, am, symbols, boundary = additive_case(seed=4)
    boundary = boundary[[0, 1, 2, 0, 4]]
    lm, am = lm.float().requires_grad_(), am.float().requires_grad_()
    expected, expected_grads = ours.rnnt_loss_smoothed(
        lm, am, symbols, 0, 0.25, 0.1, boundary, reduction="none", return_grad=True
    )
    loss, grads = module.rnnt_loss_smoothed(
        lm, am, symbols, 0, 0.25, 0.1, boundary=boundary, reduction="none", return_grad=True
    )
    for grad, expected_grad in zip(grads, expected_grads):  # first: fast_rnnt's backward overwrites them
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-5)
    assert_same(loss, expected, lm, am)
    ranges = ours.get_rnnt_prune_ranges(*expected_grads, boundary, 2)
    if name == "k2":  # fast_rnnt still chooses them by an older rule
        assert torch.equal(module.get_rnnt_prune_ranges(*expected_grads, boundary, 2), ranges)
    logits = sum(ours.do_rnnt_pruning(am, lm, ranges))
    pruned = module.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary=boundary, reduction="none")
    assert_same(pruned, ours.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary, reduction="none"), logits)


def joiner_problem():
    """Encoder and predictor frames with the layers of an additive joiner, a tanh joiner after its first, labels."""
    torch.manual_seed(0)
    additive = torch.randn(5, 5, 6), torch.randn(5, 4, 3), torch.randn(4, 6), None, torch.randn(4, 3), torch.randn(4)
    return additive, (torch.randn(5, 5, 7), torch.randn(5, 4, 7), torch.randn(4, 7), torch.randn(4)), case(seed=3)[1:]


def test_losses_of_joiners_are_those_of_their_logits():
    """The same numbers with functions of another package, which take logits, and with ours, which do not."""
    plain = {name: getattr(ours, name) for name in ("rnnt_loss", "rnnt_loss_smoothed", "rnnt_loss_pruned")}
    other, torch_ = Backend.from_losses_of_logits("other", plain), get_backend("torch")
    additive, joiner, (symbols, boundary) = joiner_problem()
    for scales in ({}, {"lm_only_scale": 0.25, "am_only_scale": 0.1}):
        simple = [
            each.simple_joiner_loss(*additive, symbols, 0, boundary, return_grad=True, **scales)
            for each in (other, torch_)
        ]
        torch.testing.assert_close(*simple, rtol=1e-5, atol=1e-6)  # float32, sums of 5 x 4 nodes
    ranges = ours.get_rnnt_prune_ranges(*simple[0][1], boundary, 3)
    where, both = (0, boundary, "regular", 0.0, "none"), (other, torch_)
    pruned = [each.pruned_joiner_loss(*joiner, symbols, ranges, *where) for each in both]
    exact = [each.exact_joiner_loss(*joiner, symbols, *where) for each in both]
    torch.testing.assert_close(*pruned, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*exact, rtol=1e-5, atol=1e-6)


COMMON = ["boundary", "rnnt_type", "delay_penalty", "reduction"]
ARGUMENTS = {
    "mutual_information_recursion": ["px", "py", "boundary", "return_grad"],
    "get_rnnt_logprobs": ["lm", "am", "symbols", "termination_symbol", "rnnt_type", "boundary"],
    "rnnt_loss": ["logits", "symbols", "termination_symbol", *COMMON],
    "rnnt_loss_simple": ["lm", "am", "symbols", "termination_symbol", *COMMON, "return_grad"],
    "rnnt_loss_smoothed": [
        "lm", "am", "symbols", "termination_symbol", "lm_only_scale", "am_only_scale", *COMMON, "return_grad"
    ],
    "get_rnnt_prune_ranges": ["px_grad", "py_grad", "boundary", "s_range"],
    "do_rnnt_pruning": ["am", "lm", "ranges"],
    "rnnt_loss_pruned": ["logits", "symbols", "ranges", "termination_symbol", *COMMON],
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_those_of_k2_and_fast_rnnt_in_their_order(name):
    """Of k2 1.24.3 and fast_rnnt 1.2 and later, whose own tests pass with these functions instead."""
    arguments = list(inspect.signature(getattr(ours, name)).parameters)
    assert arguments[: len(ARGUMENTS[name])] == ARGUMENTS[name]
    for package in ("k2", "fast_rnnt"):
        if is_installed(package):
            theirs = inspect.signature(getattr(importlib.import_module(package), name)).parameters
            assert list(theirs)[: len(ARGUMENTS[name])] == ARGUMENTS[name]


def test_the_older_name_of_the_modified_type_is_refused():
    lm, am, symbols, boundary = additive_case(seed=0)
    with pytest.raises(TypeError, match="modified"):
        ours.rnnt_loss_simple(lm, am, symbols, 0, boundary=boundary, modified=True)
