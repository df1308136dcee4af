"""The engines of the lattice recursion: the fast one against the plain one, and which of them is taken."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from support.lattices import lattices
from torch import Tensor

from residualformer.errors import UserError
from residualformer.kernels import dispatch, recursion
from residualformer.kernels.dispatch import recursion_engine
from residualformer.loss import mutual_information_recursion, rnnt_loss_smoothed
from residualformer.optional import is_installed

numba = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


def run(engine: str, px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with recursion_engine(engine):
        total, grads = mutual_information_recursion(px, py, boundary, return_grad=True)
    return total, *grads


@numba
@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("shape", [(40, 70, 0), (40, 70, 5), (1, 1, 0), (9, 4, 0), (64, 900, 0), (3, 1500, 2)])
def test_numba_is_plain(regular, shape):
    S, T, band = shape
    px, py, boundary = lattices(regular, 6, S, T, band)
    expected = run("plain", px, py, boundary)
    # float64: plain's occupations are exponentials of sums of up to 3,000, rounded by 2e-13 at each step
    atol = 3e-14 * (S + T)
    for value, reference in zip(run("numba", px, py, boundary), expected):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=atol)
    # float32: sums are float64 inside, so what is left is the rounding of the arcs, here undone, and of the results
    rounded = run("plain", px.float().double(), py.float().double(), boundary)
    for value, reference in zip(run("numba", px.float(), py.float(), boundary), rounded):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), reference, rtol=1e-6, atol=1e-7)


@numba
@pytest.mark.parametrize("regular", [True, False])
def test_float32_totals_are_better_than_those_of_plain(regular):
    px, py, boundary = lattices(regular, 6, 60, 250)
    px, py = px.float(), py.float()
    exact = run("plain", px.double(), py.double(), boundary)
    errors = {
        engine: [(a - b).abs().max() for a, b in zip(run(engine, px, py, boundary), exact)]
        for engine in ("plain", "numba")
    }
    assert all(ours <= plain for ours, plain in zip(errors["numba"], errors["plain"]))


@numba
def test_probabilities_far_below_the_smallest_float64_are_no_zeros():
    # the only good paths go by arcs of e^-3000 each: beside another, likely, dead end nothing of them may be lost
    px, py = torch.zeros(1, 3, 5, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64)
    px -= 3000
    expected = run("plain", px, py, torch.tensor([[0, 0, 3, 4]]))
    for value, reference in zip(run("numba", px, py, torch.tensor([[0, 0, 3, 4]])), expected):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


@numba
@pytest.mark.parametrize("regular", [True, False])
def test_threads_change_no_bit(regular, monkeypatch):
    from residualformer.kernels import recursion_numba

    px, py, boundary = lattices(regular)
    threads, results = torch.get_num_threads(), []
    monkeypatch.setattr(recursion_numba, "NODES_PER_THREAD", 1)
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(run("numba", px, py, boundary))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@numba
def test_the_exponential_is_that_of_the_library():
    from residualformer.kernels import recursion_numba

    x = torch.cat([torch.linspace(recursion_numba.FAR, 0, 5001), -torch.logspace(-18, 2, 500)]).double()
    ours = torch.tensor([recursion_numba._exp(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ours, x.exp(), rtol=5e-16, atol=0)  # two units in the last place


@numba
def test_the_engine_of_a_cpu_is_numba_and_a_forced_one_serves_every_loss(monkeypatch):
    asked = []
    original = recursion.load_kernels
    monkeypatch.setattr(recursion, "load_kernels", lambda kernel, name: asked.append(name) or original(kernel, name))
    lm, am, symbols = torch.randn(2, 4, 5), torch.randn(2, 6, 5), torch.ones(2, 3, dtype=torch.int64)
    loss = rnnt_loss_smoothed(lm, am, symbols, 0)
    with recursion_engine("plain"):
        plain = rnnt_loss_smoothed(lm, am, symbols, 0)
    assert asked == ["numba", "plain"]
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)


def test_other_kinds_of_numbers_are_for_plain():
    px, py, boundary = lattices(True, S=6, T=8)
    half = mutual_information_recursion(px.bfloat16(), py.bfloat16(), boundary)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_an_engine_that_fails_is_given_up_with_one_warning(monkeypatch, caplog):
    def broken(kernel, engine):
        if engine != "plain":
            raise OSError("libsvml.so has no such symbol")
        return original(kernel, engine)

    px, py, boundary = lattices(True, S=6, T=8)
    expected = run("plain", px, py, boundary)
    original = recursion.load_kernels
    monkeypatch.setattr(dispatch, "_failed", set())
    monkeypatch.setattr(dispatch, "_is_there", lambda name: True)
    monkeypatch.setattr(recursion, "load_kernels", broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(run("auto", px, py, boundary), expected))
    assert len(caplog.records) == 1 and "without numba, which failed, and therefore slower: libsvml.so" in caplog.text


def test_an_engine_that_is_not_installed_is_passed_over_unless_it_is_asked_for(monkeypatch):
    px, py, boundary = lattices(True, S=6, T=8)
    dispatch.load_kernels.cache_clear()
    monkeypatch.setattr("residualformer.optional.is_installed", lambda name: False)
    monkeypatch.setattr(dispatch, "_is_there", lambda name: False)
    assert torch.equal(run("auto", px, py, boundary)[0], run("plain", px, py, boundary)[0])
    command = r"pip install '\.\[train\]' in the repository"
    with pytest.raises(UserError, match=f"numba .* is not installed; to get it: {command}"):
        run("numba", px, py, boundary)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="recursion engine is 'cuda'; it must be one of auto, plain, numba, triton"):
        with recursion_engine("cuda"):
            pass


@numba
def test_without_a_folder_for_compiled_code_it_is_compiled_anew():
    # what numba does where it may write neither beside the source nor in the home folder
    code = """
import torch, numba.core.caching
numba.core.caching.CodeLibraryCacheImpl._locator_classes = []
numba.core.caching.CompileResultCacheImpl._locator_classes = []
from residualformer.loss.recursion import mutual_information_recursion, recursion_engine
with recursion_engine("numba"):
    print(mutual_information_recursion(torch.zeros(1, 1, 3), torch.zeros(1, 2, 2)).exp().item())
"""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert float(result.stdout) == pytest.approx(3), result.stderr  # a label before, between or after two blanks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
@numba
def test_a_forked_process_has_threads_of_its_own():
    code = """
import os, torch
from residualformer.kernels import recursion_numba
recursion_numba.NODES_PER_THREAD = 1
torch.set_num_threads(2)
arcs = torch.zeros(2, 1, 3), torch.zeros(2, 2, 2), torch.tensor([[0, 0, 1, 2]] * 2)
recursion_numba.run(*arcs, True)
child = os.fork()
if child == 0:
    os._exit(int(recursion_numba.run(*arcs, True)[0].exp().sum().round()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert result.stdout.strip() == "6", result.stderr
