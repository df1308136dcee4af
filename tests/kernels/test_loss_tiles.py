"""Tiles of the joiner's lattice: kernels in numba against PyTorch in float64, and when they are taken."""

import logging

import pytest
import torch
from support.lattice_nodes import NODES, assert_float64_but_for_rounding, problem, run

from residualformer.kernels import dispatch
from residualformer.kernels.dispatch import recursion_engine
from residualformer.kernels.tiles import fastest_tiles
from residualformer.kernels.tiles_plain import Tiles
from residualformer.loss import exact_joiner_loss
from residualformer.loss.arcs import NotFiniteError
from residualformer.optional import is_installed

numba = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


@numba
@pytest.mark.parametrize("C", [2, 5, 64, 301])
@pytest.mark.parametrize("spread", [0.05, 1.0, 20.0])
def test_kernels_are_float64_but_for_rounding(C, spread):
    """tanh is off by 1.5e-7, products of D by a few eps, in logits of up to 5 sqrt(D) spread; and so are gradients."""
    from residualformer.kernels.tiles_numba import NumbaTiles

    assert_float64_but_for_rounding(NumbaTiles, C, spread)


@numba
def test_impossible_classes_and_logits_that_are_not_finite():
    from residualformer.kernels.tiles_numba import NumbaTiles

    joiner, nodes, grad = problem(40)
    joiner[3][:8] = -torch.inf
    nodes[2][nodes[2] < 8] += 8
    expected, expected_grads = run(Tiles, joiner, nodes, grad)
    arcs, grads = run(NumbaTiles, joiner, nodes, grad)
    torch.testing.assert_close(arcs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0], expected_grads[0], rtol=1e-4, atol=1e-4)
    assert not grads[3][:8].any() and not grads[2][:8].any()
    for wrong in (torch.nan, torch.inf, -torch.nan):
        joiner[0][4] = wrong  # tanh of inf is 1, as it should be
        arcs, _ = run(NumbaTiles, joiner, nodes, grad)
        assert torch.equal(arcs.isnan()[:, 0], (nodes[0] == 4) & (wrong != torch.inf))
        joiner[0][4] = 0.5
        joiner[3][20] = wrong
        assert run(NumbaTiles, joiner, nodes, grad)[0].isnan().all()
        joiner[3][20] = 0.5
    joiner[3][:] = -torch.inf
    assert run(NumbaTiles, joiner, nodes, grad)[0].isnan().all()


@numba
def test_no_gradient_is_a_denormal_number():
    """Products of matrices that meet them are several times slower."""
    from residualformer.kernels.tiles_numba import NumbaTiles

    joiner, nodes, grad = problem(300, spread=5.0)
    tiles = NumbaTiles(*joiner)
    tiles.split(NODES, NODES)
    grads, norms = [torch.zeros_like(each) for each in joiner], grad.new_empty(NODES)
    tiles.write_log_probs(nodes, torch.empty_like(grad), norms)
    tiles.add_grads(nodes, norms, grad.clamp(min=1e-7), grads)
    tiny = tiles.logits[tiles.logits != 0].abs().min()
    assert torch.finfo(torch.float32).tiny <= tiny < 1e-30 and (tiles.logits == 0).any()


@numba
def test_threads_change_no_bit(monkeypatch):
    from residualformer.kernels import tiles_numba

    monkeypatch.setattr(tiles_numba, "NUMBERS_PER_THREAD", 1)
    problem_, results = problem(64), []
    for number in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)  # products keep theirs
        arcs, grads = run(tiles_numba.NumbaTiles, *problem_)
        results.append([arcs, *grads])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@numba
def test_kernels_are_for_float32_and_not_for_the_plain_engine():
    am = torch.zeros(2, 3)
    assert fastest_tiles(am) is not Tiles
    assert fastest_tiles(am.double()) is Tiles and fastest_tiles(am.to("meta")) is Tiles
    with recursion_engine("plain"):
        assert fastest_tiles(am) is Tiles


def test_kernels_that_fail_are_given_up_with_one_warning(monkeypatch, caplog):
    def broken(name):
        raise OSError("libsvml.so has no such symbol")

    dispatch.load_kernels.cache_clear()
    monkeypatch.setattr(dispatch, "_failed", set())
    monkeypatch.setattr(dispatch, "_is_there", lambda name: True)
    monkeypatch.setattr(dispatch.importlib, "import_module", broken)
    with caplog.at_level(logging.WARNING):
        assert [fastest_tiles(torch.zeros(2, 3)) for _ in range(2)] == [Tiles, Tiles]
    assert len(caplog.records) == 1 and "without numba, which failed" in caplog.text and "libsvml.so" in caplog.text


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_an_utterance_that_is_not_finite_is_named_by_either(engine):
    generator = torch.Generator().manual_seed(0)
    am, lm, weight = (torch.randn(shape, generator=generator) for shape in ((3, 6, 8), (3, 4, 8), (5, 8)))
    am[1, 2, 3] = torch.nan
    with recursion_engine(engine), pytest.raises(NotFiniteError) as error:
        exact_joiner_loss(am, lm, weight, None, torch.ones(3, 3, dtype=torch.int64), 0)
    assert error.value.rows == [1]
