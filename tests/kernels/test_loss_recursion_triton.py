"""The recursion in Triton: run by Triton's interpreter against the plain engine and all paths, and compiled."""

import logging
from types import SimpleNamespace

import pytest
import torch
from support.lattices import lattices
from support.loss_paths import TYPES, case, loss_by_paths
from support.triton_kernels import Build, compile_kernels, triton

from residualformer.errors import UserError
from residualformer.kernels import dispatch, recursion
from residualformer.kernels.dispatch import recursion_engine
from residualformer.loss import mutual_information_recursion, rnnt_loss

pytestmark = triton

# float32 results of up to 100 are rounded by 4e-6, exp and log by 1e-7; plain in float32 is off by 1e-4
ATOL = 1e-5


def run(engine, px, py, boundary):
    with recursion_engine(engine):
        total, grads = mutual_information_recursion(px, py, boundary, return_grad=True)
    return total, *grads


def assert_plain(px, py, boundary):
    """Total and occupations are the plain engine's in float64 for the same float32 arcs; returns them."""
    results = run("triton", px, py, boundary)
    for ours, plain in zip(results, run("plain", px.double(), py.double(), boundary), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), plain, rtol=0, atol=ATOL)
    return results


@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("S, T, band", [(12, 20, 0), (12, 20, 4), (3, 2, 0), (33, 7, 8)])
def test_it_is_plain_on_ragged_strided_lattices(regular, S, T, band):
    """More labels than frames and an empty transcript included."""
    px, py, boundary = lattices(regular, 6, S, T, band)
    px, py = px.float(), py.float().transpose(1, 2).contiguous().transpose(1, 2)
    total, px_grad, _ = assert_plain(px, py, boundary)
    assert not px_grad[3].any()  # no labels
    with recursion_engine("triton"):
        assert torch.equal(mutual_information_recursion(px[:2], py[:2], boundary[:2]), total[:2])


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_loss_and_gradients_are_those_of_all_paths(rnnt_type):
    logits, symbols, boundary = case(seed=3)
    exact = logits.requires_grad_()
    ours = logits.detach().float().requires_grad_()
    with recursion_engine("triton"):
        loss = rnnt_loss(ours, symbols, 0, boundary, rnnt_type, 0.2, "none")
    expected = loss_by_paths(exact.log_softmax(3), symbols, boundary, rnnt_type, 0.2)
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=ATOL)
    weights = torch.arange(1.0, 6.0)
    (grad,) = torch.autograd.grad(loss @ weights, ours)
    (expected_grad,) = torch.autograd.grad(expected @ weights.double(), exact)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=ATOL)


def test_thousands_of_labels_of_which_a_few_count():
    """Windows at both ends of a lattice of 2,047 labels, and lattices that share their arcs (a stride of 0)."""
    S, T = recursion.MAX_LABELS, 3
    generator = torch.Generator().manual_seed(0)
    px = torch.randn(1, S, T + 1, generator=generator).expand(3, -1, -1)
    py = torch.randn(1, S + 1, T, generator=generator).expand(3, -1, -1)
    boundary = torch.tensor([[0, 0, 4, 3], [S - 3, 0, S, 3], [S, 1, S, 3]])
    _, px_grad, _ = assert_plain(px, py, boundary)
    assert px_grad[0, :4].any() and px_grad[1, -3:].any() and not px_grad[2].any()


def test_every_path_takes_each_label_and_each_frame_once():
    px, py, _ = lattices(True, 6, 5, 8)
    _, px_grad, py_grad = run("triton", px[:2].float(), py[:2].float(), torch.tensor([[0, 0, 5, 8], [1, 2, 4, 6]]))
    for grad, dim, first, last in ((px_grad[0], 1, 0, 5), (py_grad[0], 0, 0, 8), (px_grad[1], 1, 1, 4)):
        sums = grad.sum(dim)
        torch.testing.assert_close(sums[first:last], torch.ones(last - first), rtol=0, atol=1e-6)  # sums of fractions
    frames = py_grad[1].sum(0)
    torch.testing.assert_close(frames, torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0]), rtol=0, atol=1e-6)


def test_no_path_padding_nan_and_no_utterance():
    px, py = torch.zeros(3, 2, 3), torch.zeros(3, 3, 3)
    px[1, 1, 2], px[2, 0, 0] = float("nan"), float("nan")
    boundary = torch.tensor([[0, 0, 2, 1], [0, 0, 2, 2], [0, 0, 2, 3]])
    total, px_grad, py_grad = run("triton", px, py, boundary)
    assert total[0] == -torch.inf and total[1] == 0 and total[2].isnan()
    assert px_grad[:2].sum() == 2 and not py_grad[:2].any()
    with recursion_engine("triton"):
        assert mutual_information_recursion(torch.zeros(0, 2, 3), torch.zeros(0, 3, 3)).tolist() == []


def test_numbers_and_devices_that_it_does_not_take_are_refused(monkeypatch):
    from residualformer.kernels import triton_tools

    px, py, boundary = lattices(True, 6, 3, 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        with pytest.raises(UserError, match=f"takes float32, got {str(dtype)[6:]}: convert it with .float()"):
            run("triton", px.to(dtype), py.to(dtype), boundary)
    monkeypatch.setattr(triton_tools, "INTERPRETED", False)
    with pytest.raises(UserError, match="needs tensors on CUDA, got cpu"):
        run("triton", px.float(), py.float(), boundary)


def test_it_is_launched_on_the_device_of_its_tensors(monkeypatch):
    """Triton itself launches on the current device, cuda:0, also what lies on cuda:1."""
    from residualformer.kernels import triton_tools

    current = []

    class DeviceOf:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            current.append(self.tensor)

        def __exit__(self, *_):
            current.pop()

    class Kernel(dict):
        def __missing__(self, grid):
            return lambda *arguments: seen.append((grid, arguments, list(current)))

    seen = []
    monkeypatch.setattr(torch.cuda, "device_of", DeviceOf)
    triton_tools.launch(Kernel(), (3,), "cuda:1", 1, 2)
    assert seen == [((3,), (1, 2), ["cuda:1"])] and not current


@pytest.mark.parametrize(
    "dtype, labels, installed, reason",
    [
        (torch.bfloat16, 9, True, "Triton's is for float32, not bfloat16"),
        (torch.float32, 2048, True, "Triton's is for up to 2047 labels, not 2048"),
        (torch.float32, 9, False, "Triton is not installed; to get it: pip install triton"),
        (torch.float32, 9, True, None),
    ],
)
def test_a_gpu_without_it_is_told_why_once(dtype, labels, installed, reason, monkeypatch, caplog):
    px = SimpleNamespace(device=torch.device("cuda", 1), dtype=dtype, shape=(2, labels, 5))
    dispatch._warn_once.cache_clear()
    monkeypatch.setattr(dispatch, "_failed", set())
    monkeypatch.setattr(dispatch, "_is_there", lambda name: installed)
    with caplog.at_level(logging.WARNING):
        engines = [recursion._fastest(px) for _ in range(2)]
    assert engines == (["plain"] * 2 if reason else ["triton"] * 2)
    expected = [f"on cuda the lattice recursion runs in plain PyTorch, which is slower: {reason}"] if reason else []
    assert [record.getMessage()[: len(expected[0])] for record in caplog.records] == expected


def test_it_compiles_for_gpus():
    floats = dict.fromkeys(["px", "py", "px_grad", "py_grad", "total", "x_fractions"], "*fp32")
    builds = [
        Build(
            "_recursion",
            floats | {"boundary": "*i64"},
            {"SLOPE": slope, "WITH_GRAD": with_grad, "BLOCK": block},
            {"num_warps": min(8, max(1, block // 128))},
            arch,
        )
        for slope, with_grad, block in ((1, True, 64), (0, True, 2048), (1, False, 128))
        for arch in (80, 90)
    ]
    for used in compile_kernels("recursion_triton", builds).values():
        assert used.registers <= 255 and used.stack == 0 and used.shared <= 48 * 1024
