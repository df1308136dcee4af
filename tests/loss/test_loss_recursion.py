"""The lattice recursion on each of its engines: all paths one by one, identities of its occupations, robustness."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from residualformer.loss import mutual_information_recursion
from residualformer.loss.recursion import recursion_engine
from residualformer.optional import is_installed

# ragged; no labels; no frames; begun late; one frame
BOUNDARY = torch.tensor([[0, 0, 3, 6], [0, 0, 2, 4], [1, 2, 3, 5], [0, 3, 0, 6], [2, 1, 2, 1], [1, 2, 2, 3]])
B = len(BOUNDARY)
NUMBA = pytest.param("numba", marks=pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed"))


@pytest.fixture(autouse=True, params=["plain", NUMBA])
def engine(request):
    """Every test of this file runs on each engine that takes float64."""
    with recursion_engine(request.param):
        yield request.param


def arcs(regular: bool, B: int = B, S: int = 3, T: int = 6):
    generator = torch.Generator().manual_seed(3)
    px = torch.randn(B, S, T + regular, generator=generator, dtype=torch.float64)
    py = torch.randn(B, S + 1, T, generator=generator, dtype=torch.float64)
    return px, py


def paths(node: tuple[int, int], end: tuple[int, int], advance: int) -> Iterator[list[tuple[str, int, int]]]:
    """Every path as its arcs (x or y, s, t); an x arc consumes `advance` frames."""
    if node == end:
        yield []
    (s, t), steps = node, []
    if s < end[0] and t + advance <= end[1]:
        steps.append(("x", (s + 1, t + advance)))
    if t < end[1]:
        steps.append(("y", (s, t + 1)))
    for kind, following in steps:
        for rest in paths(following, end, advance):
            yield [(kind, s, t), *rest]


@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("band", [False, True])
def test_value_and_occupations_are_those_of_all_paths(regular, band):
    px, py = arcs(regular)
    if band:  # as a pruned lattice: at frame t only labels t // 2 and the next
        s, t = torch.arange(4)[:, None], torch.arange(7)
        shut = (s < t // 2) | (s > t // 2 + 1)
        px, py = px.masked_fill(shut[:3, : px.shape[2]], -torch.inf), py.masked_fill(shut[:, :6], -torch.inf)
    total, (px_grad, py_grad) = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    for b, (s0, t0, s1, t1) in enumerate(BOUNDARY.tolist()):
        x, y = px[b].tolist(), py[b].tolist()
        likelihood, occupation = 0.0, {"x": torch.zeros_like(px[b]), "y": torch.zeros_like(py[b])}
        for path in paths((s0, t0), (s1, t1), 1 - regular):
            probability = math.exp(math.fsum((x if kind == "x" else y)[s][t] for kind, s, t in path))
            likelihood += probability
            for kind, s, t in path:
                occupation[kind][s, t] += probability
        assert total[b] == (pytest.approx(math.log(likelihood), abs=1e-12) if likelihood else -math.inf)
        for grad, expected in ((px_grad[b], occupation["x"]), (py_grad[b], occupation["y"])):
            torch.testing.assert_close(grad, expected / (likelihood or 1), rtol=0, atol=1e-12)  # float64 rounding


@pytest.mark.parametrize("regular", [True, False])
def test_each_label_is_emitted_once_and_each_frame_consumed_once(regular):
    px, py = arcs(regular)
    _, (px_grad, py_grad) = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    for b, (s0, t0, s1, t1) in enumerate(BOUNDARY.tolist()):
        labels, frames = torch.zeros(3, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        labels[s0:s1] = 1
        frames[t0:t1] = 1
        torch.testing.assert_close(px_grad[b].sum(1), labels, rtol=0, atol=1e-12)  # float64 rounding
        consumed = py_grad[b].sum(0) + (0 if regular else px_grad[b].sum(0))
        torch.testing.assert_close(consumed, frames, rtol=0, atol=1e-12)
        assert (px_grad[b] >= 0).all() and (py_grad[b] >= 0).all()


@pytest.mark.parametrize("regular", [True, False])
def test_gradients_are_finite_differences(regular):
    px, py = (tensor.requires_grad_() for tensor in arcs(regular))
    assert torch.autograd.gradcheck(lambda px, py: mutual_information_recursion(px, py, BOUNDARY), (px, py))


@pytest.mark.parametrize("regular", [True, False])
def test_returned_gradients_are_those_of_autograd_and_the_value_needs_no_gradients(regular):
    px, py = (tensor.requires_grad_() for tensor in arcs(regular))
    total, grads = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    assert not any(grad.requires_grad for grad in grads)
    for returned, expected in zip(grads, torch.autograd.grad(total.sum(), (px, py))):
        assert torch.equal(returned, expected)
    with torch.no_grad():
        assert torch.equal(mutual_information_recursion(px, py, BOUNDARY), total)


def test_what_lies_outside_the_boundary_does_not_matter():
    px, py = arcs(True)
    expected, expected_grads = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    for b, (s0, t0, s1, t1) in enumerate(BOUNDARY.tolist()):
        inside_x, inside_y = torch.zeros(3, 7, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
        inside_x[s0:s1, t0 : t1 + 1] = True
        inside_y[s0 : s1 + 1, t0:t1] = True
        px[b].masked_fill_(~inside_x, [torch.nan, torch.inf][b % 2])
        py[b].masked_fill_(~inside_y, [torch.nan, torch.inf][b % 2])
    total, grads = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    assert torch.equal(total, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads))


@pytest.mark.parametrize("regular", [True, False])
def test_utterances_do_not_know_of_each_other(regular):
    px, py = arcs(regular)
    total, grads = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved, moved_grads = mutual_information_recursion(px[order], py[order], BOUNDARY[order], return_grad=True)
    assert torch.equal(moved, total[order])
    assert all(torch.equal(moved_grad, grad[order]) for moved_grad, grad in zip(moved_grads, grads))


def test_the_layout_in_memory_does_not_matter():
    px, py = arcs(True)
    expected, expected_grads = mutual_information_recursion(px, py, BOUNDARY, return_grad=True)
    by_frame = [p.permute(2, 0, 1).contiguous().permute(1, 2, 0) for p in (px, py)]
    spaced = [torch.stack([p, p], dim=3)[..., 0] for p in (px, py)]
    for other_px, other_py in (by_frame, spaced):
        total, grads = mutual_information_recursion(other_px, other_py, BOUNDARY, return_grad=True)
        assert torch.equal(total, expected)
        assert all(torch.equal(grad, other) for grad, other in zip(grads, expected_grads))
    one = [p[:1].expand(B, -1, -1) for p in (px, py)]  # all rows in the place of one
    total, _ = mutual_information_recursion(*one, return_grad=True)
    assert (total == mutual_information_recursion(px[:1], py[:1])).all()


def test_a_lattice_without_any_path_is_log_zero_with_zero_gradients():
    px, py = (tensor.requires_grad_() for tensor in arcs(False, T=2))  # three labels cannot consume two frames
    total, grads = mutual_information_recursion(px, py, return_grad=True)
    assert (total == -torch.inf).all() and not any(grad.any() for grad in grads)
    blocked, open_ = arcs(True)
    blocked[0, 1] = -torch.inf
    total, (px_grad, py_grad) = mutual_information_recursion(blocked, open_, return_grad=True)
    assert total[0] == -torch.inf and total[1:].isfinite().all()
    assert not px_grad[0].any() and not py_grad[0].any() and px_grad.isfinite().all() and py_grad.isfinite().all()


def test_no_labels_at_all_and_no_frames_at_all():
    px, py = torch.empty(2, 0, 4), torch.randn(2, 1, 3)
    torch.testing.assert_close(mutual_information_recursion(px, py), py.sum((1, 2)))
    assert mutual_information_recursion(torch.empty(2, 0, 1), torch.empty(2, 1, 0)).tolist() == [0, 0]


def test_long_lattices_lose_no_precision_in_float32():
    # 300 frames, 60 labels: values of several hundred, so float32 resolves 3e-5; 1e-6 relative allows for rounding
    px, py = (tensor.float() for tensor in arcs(True, B=2, S=60, T=300))
    total, grads = mutual_information_recursion(px, py, return_grad=True)
    expected, expected_grads = mutual_information_recursion(px.double(), py.double(), return_grad=True)
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    for grad, expected_grad in zip(grads, expected_grads):
        torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=1e-3)


class _CountOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_work_is_a_few_operations_per_anti_diagonal(engine):
    if engine != "plain":
        pytest.skip("its loops are no operations of torch")
    counts = []
    for size in (20, 40):
        px, py = arcs(True, S=size, T=2 * size)
        with _CountOperations() as operations:
            mutual_information_recursion(px, py, return_grad=True)
        counts.append(operations.count)
    assert counts[1] - counts[0] <= 5 * 60  # 60 more diagonals, 3 kernels each; S x T grows by 2400


def test_second_derivatives_are_refused():
    px, py = (tensor.requires_grad_() for tensor in arcs(True))
    (grad,) = torch.autograd.grad((mutual_information_recursion(px, py) ** 2).sum(), px, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "boundary, message",
    [
        (torch.tensor([[0, 0, 4, 6]] * B), r"row 0 is \[0, 0, 4, 6\]"),
        (torch.tensor([[0, 0, 3, 6]] * 4 + [[0, 3, 3, 2]] * 2), "row 4"),
        (torch.tensor([[0, 0, -1, 6]] * B), "row 0"),
        (torch.tensor([[0, 0, 3, 6]]), r"shape \(6, 4\)"),
        (torch.tensor([[0, 0, 3, 6]] * B).int(), "int64"),
    ],
)
def test_bad_boundaries_are_named(boundary, message):
    with pytest.raises(ValueError, match=message):
        mutual_information_recursion(*arcs(True), boundary)


def test_arcs_that_do_not_fit_are_refused():
    px, py = arcs(True)
    for bad_px, bad_py in ((px[:, :, :4], py), (px[:, 1:], py), (px.float(), py), (px[0], py)):
        with pytest.raises(ValueError, match="px"):
            mutual_information_recursion(bad_px, bad_py)
