"""Tiles of the joiner's lattice in Triton: run by Triton's interpreter against PyTorch in float64, and compiled."""

import logging

import pytest
import torch
from support.lattice_nodes import NODES, assert_float64_but_for_rounding, problem, run
from support.loss_paths import TYPES, case
from support.triton_kernels import Build, compile_kernels, counted_launches, triton

from residualformer.kernels import dispatch
from residualformer.kernels.dispatch import recursion_engine
from residualformer.kernels.tiles_plain import Tiles
from residualformer.loss import exact_joiner_loss, pruned_joiner_loss

pytestmark = triton


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of which even small problems have several, the last of them not full. Returns those of a GPU."""
    from residualformer.kernels import tiles_triton

    small = {"ROWS": 32, "CLASSES": 16, "DEPTH": 16}
    sizes = {name: getattr(tiles_triton, name) for name in small}
    for name, size in small.items():
        monkeypatch.setattr(tiles_triton, name, size)
    return sizes


@pytest.mark.parametrize("C", [2, 16, 37])
@pytest.mark.parametrize("spread", [0.05, 20.0])
def test_kernels_are_float64_but_for_rounding(C, spread):
    """As those in numba: tanh is off by 1.5e-7, products of D by a few eps, in logits of up to 5 sqrt(D) spread."""
    from residualformer.kernels.tiles_triton import TritonTiles

    assert_float64_but_for_rounding(TritonTiles, C, spread)


def test_bf16_factors_have_float32_sums():
    """With factors that bf16 can hold the logits are those of float32 factors, where bf16 sums would be off by 2^-9."""
    from residualformer.kernels.tiles_triton import TritonTiles

    joiner, nodes, _ = problem(37)
    joiner[2] = joiner[2].bfloat16().float()
    joiner[1][:] = torch.where(torch.arange(37) % 2 == 0, 30.0, -30.0)  # so that tanh is 1 or -1
    results = []
    for bf16 in (False, True):
        tiles, log_probs, norms = TritonTiles(*joiner, bf16), torch.empty(NODES, 2), torch.empty(NODES)
        tiles.split(NODES, NODES)
        tiles.write_log_probs(nodes, log_probs, norms)
        results.append(log_probs)
        assert tiles.factor.dtype == (torch.bfloat16 if bf16 else torch.float32)
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_bf16_products_bound_the_error():
    """A logit is off by 2^-8 |h| |w| at most; see the same test in `test_loss_fused_joiner.py`."""
    from residualformer.kernels.tiles_triton import TritonTiles

    joiner, nodes, grad = problem(37)
    exact, exact_grads = run(Tiles, joiner, nodes, grad)
    rough, rough_grads = run(lambda *joiner: TritonTiles(*joiner, True), joiner, nodes, grad)
    per_node = 2 * 2**-8 * joiner[2].norm(dim=1).max() * 37**0.5  # a label's logit and the normalizer's
    assert 0 < (rough - exact).abs().max() <= per_node
    for ours, theirs in zip(rough_grads, exact_grads, strict=True):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_impossible_classes_and_logits_that_are_not_finite():
    from residualformer.kernels.tiles_triton import TritonTiles

    joiner, nodes, grad = problem(40)
    joiner[3][:20] = -torch.inf  # the whole first block of classes
    nodes[2][nodes[2] < 20] += 20
    expected, expected_grads = run(Tiles, joiner, nodes, grad)
    arcs, grads = run(TritonTiles, joiner, nodes, grad)
    torch.testing.assert_close(arcs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0], expected_grads[0], rtol=1e-4, atol=1e-4)
    assert not grads[3][:20].any() and not grads[2][:20].any()
    for wrong in (torch.nan, torch.inf):
        joiner[0][4] = wrong  # tanh of inf is 1, as it should be
        for kind in (Tiles, TritonTiles):
            assert torch.equal(run(kind, joiner, nodes, grad)[0].isnan()[:, 0], (nodes[0] == 4) & (wrong != torch.inf))
        joiner[0][4] = 0.5
        joiner[3][30] = wrong
        for kind in (Tiles, TritonTiles):
            assert run(kind, joiner, nodes, grad)[0].isnan().all()
        joiner[3][30] = 0.5


def losses(engine, joiner, symbols, boundary, ranges, rnnt_type):
    """Pruned and exact losses of each utterance and the gradients of their weighted sum."""
    joiner = [each.detach().requires_grad_() for each in joiner]
    with recursion_engine(engine):
        pruned = pruned_joiner_loss(*joiner, symbols, ranges, 0, boundary, rnnt_type, 0.1, "none")
        exact = exact_joiner_loss(*joiner, symbols, 0, boundary, rnnt_type, 0.1, "none")
        total = (pruned + 2 * exact) @ torch.arange(1.0, 6.0, dtype=exact.dtype)
        return pruned, exact, *torch.autograd.grad(total, joiner)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_losses_of_ragged_utterances_are_plain_ones(rnnt_type):
    """Recursion and tiles, both in Triton. Losses are rounded to 1e-6 and gradients to a few 1e-7 of the largest."""
    _, symbols, boundary = case(seed=8, C=18)
    generator = torch.Generator().manual_seed(8)
    joiner = [torch.randn(shape, generator=generator) for shape in ((5, 5, 20), (5, 4, 20), (18, 20), (18,))]
    ranges = (torch.arange(5)[:, None] // 2 + torch.arange(3)).clamp(max=3).expand(5, -1, -1)
    expected = losses("plain", [each.double() for each in joiner], symbols, boundary, ranges, rnnt_type)
    for ours, plain in zip(losses("triton", joiner, symbols, boundary, ranges, rnnt_type), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), plain, rtol=2e-6, atol=2e-6 * plain.detach().abs().max().item())


def test_forward_keeps_no_logits_and_launches_two_kernels(monkeypatch):
    from residualformer.kernels import tiles_triton

    joiner, nodes, grad = problem(40)
    tiles = tiles_triton.TritonTiles(*joiner)
    norms = grad.new_empty(NODES)
    with counted_launches(monkeypatch, tiles_triton) as launched:
        assert tiles.split(NODES, NODES) == [slice(0, NODES)]
        tiles.write_log_probs(nodes, torch.empty_like(grad), norms)
        assert launched == ["_join", "_log_probs"] and tiles.logits.numel() == 0
        tiles.add_grads(nodes, norms, grad, [torch.zeros_like(each) for each in joiner])
        assert launched[2:] == ["_join", "_grads_of_logits"]


def test_a_kernel_that_fails_when_it_first_runs_is_given_up(monkeypatch, caplog):
    from residualformer.kernels import tiles_triton

    def broken(*_, **__):
        raise RuntimeError("out of resource: shared memory")

    am, lm, weight = (torch.randn(shape, requires_grad=True) for shape in ((1, 6, 8), (1, 4, 8), (5, 8)))
    arguments = am, lm, weight, None, torch.ones(1, 3, dtype=torch.int64), 0
    expected = exact_joiner_loss(*arguments)
    monkeypatch.setattr(dispatch, "_failed", {"numba"})
    monkeypatch.setattr(dispatch, "triton_or_plain", lambda kernel, like: "triton")
    monkeypatch.setattr(tiles_triton, "launch", broken)
    with caplog.at_level(logging.WARNING):
        loss = exact_joiner_loss(*arguments)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.autograd.grad(loss, am)
    assert len(caplog.records) == 1 and "without triton, which failed" in caplog.text and "shared" in caplog.text


def test_it_compiles_for_gpus(small_blocks):
    from residualformer.kernels import tiles_triton

    floats = ["am", "lm", "joint", "weight", "bias", "norms", "log_probs", "grad", "logits_grad", "bias_parts"]
    types = dict.fromkeys(floats, "*fp32") | dict.fromkeys(["t", "s", "classes"], "*i64")
    builds = [
        Build(kernel, types | dict.fromkeys(["joint", "weight"], factor), small_blocks, tiles_triton.OPTIONS, arch)
        for arch in (80, 90)
        for kernel in ("_log_probs", "_grads_of_logits")
        for factor in ("*fp32", "*bf16")
    ]
    builds += [
        Build("_join", types, {name: small_blocks[name] for name in ("ROWS", "DEPTH")}, {}, 80),
    ]
    for used in compile_kernels("tiles_triton", builds).values():
        assert used.registers <= 255 and used.stack == 0 and used.shared <= 48 * 1024
