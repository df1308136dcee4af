"""Sparse products: every layout against the dense product in fp64, packing by hand, and the choice between them."""

import copy
import pickle

import pytest
import torch

from residualformer.errors import UserError
from residualformer.kernels import sparse as sparse_kernel
from residualformer.kernels.sparse import (
    FEW_VECTORS,
    DenseProduct,
    MaskedProduct,
    SparseMatrix,
    best_product,
    plain_masked_product,
)
from residualformer.optional import is_installed

CASES = [("sliced", 1), ("bitmask", 1), ("bitmask", 4), ("blocks", 4), ("blocks", 8)]
SHAPES = [(64, 128), (33, 70), (1, 5), (50, 1300)]  # whole vectors; neither rows nor columns; tiny; gaps over 255
numba = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


def sparse(w, v, density, block=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(w, -(-v // block), generator=generator) < density
    return torch.randn(w, v, generator=generator) * blocks.repeat_interleave(block, 1)[:, :v]


def assert_equal(ours, weight, x):
    """Within the rounding of v products and sums in fp32, whose sizes add up to |x| |W|'."""
    exact, size = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    assert ((ours.double() - exact).abs() <= 1e-6 * size + 1e-12).all()


@numba
@pytest.mark.parametrize("layout, block", CASES)
@pytest.mark.parametrize("density", [0.0, 0.004, 0.2, 0.85, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_the_dense_matrix(layout, block, density, shape):
    weight = sparse(*shape, density, block)
    matrix = SparseMatrix(weight, block, layout)
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(1))
    assert matrix.shape == shape and matrix.nnz == weight.count_nonzero()
    assert_equal(matrix.matmul(x), weight, x)
    assert torch.equal(matrix.matmul(x[3:4])[0], matrix.matmul(x)[3])


@numba
@pytest.mark.parametrize("layout, block", CASES)
def test_rows_of_uneven_length(layout, block):
    """Empty rows, one full row, a lone last weight: what sorting and padding could get wrong."""
    weight = sparse(40, 600, 0.1, block)
    weight[5], weight[17:30], weight[31] = torch.randn(600), 0, 0
    weight[31, -1] = 1.5
    x = torch.randn(2, 600)
    assert_equal(SparseMatrix(weight, block, layout).matmul(x), weight, x)


@numba
@pytest.mark.parametrize("layout, block", CASES)
def test_nothing_but_the_matrix_is_read_and_nothing_but_the_result_written(layout, block):
    """Prefetched and expanded lanes beyond the ends do not count, nor do the columns of zeros."""
    weight = sparse(48, 192, 0.3, block)
    x = torch.randn(3, 192)
    wide = torch.full((3, 400), torch.nan)
    wide[:, 100:292] = x
    matrix, before = SparseMatrix(weight, block, layout), weight.clone()
    assert_equal(matrix.matmul(wide[:, 100:292]), weight, x)  # a view with strides
    weight.zero_()  # the matrix holds a copy
    assert_equal(matrix.matmul(x), before, x)


@numba
@pytest.mark.parametrize("layout, block, most", [("sliced", 1, 5.3), ("bitmask", 1, 4.7), ("blocks", 8, 4.7)])
def test_bytes_for_each_weight_that_is_kept(layout, block, most):
    """5, 4 + 1 / (8 d) and 4.25 bytes, and a little padding."""
    matrix = SparseMatrix(sparse(1024, 1024, 0.2, block), block, layout)
    assert matrix.nbytes / matrix.nnz < most


@numba
def test_it_can_be_copied_and_sent_to_other_processes():
    weight, x = sparse(16, 64, 0.2), torch.randn(1, 64)
    matrix = SparseMatrix(weight)
    for other in (copy.deepcopy(matrix), pickle.loads(pickle.dumps(matrix))):
        assert torch.equal(other(x), matrix(x))


@numba
@pytest.mark.parametrize("layout, block", [("csr", 1), ("blocks", 1), ("blocks", 5)])
def test_a_layout_that_is_not_there_is_refused(layout, block):
    with pytest.raises(UserError, match=f"layout '{layout}' with block {block}; allowed: sliced, bitmask, blocks"):
        SparseMatrix(torch.ones(16, 64), block, layout)


@numba
@pytest.mark.parametrize(
    "density, block, layout",
    [
        (0.2, 1, "sliced"),
        (0.85, 1, "bitmask"),
        (0.2, 4, "blocks"),
        (0.2, 8, "blocks"),
        (0.85, 8, "bitmask"),
        (0.95, 1, None),
        (1.0, 8, None),
    ],
)
def test_the_best_product_is_chosen_by_density_and_block(density, block, layout, monkeypatch):
    monkeypatch.setattr(sparse_kernel, "_expands", lambda: True)
    weight, x = sparse(64, 512, density, block), torch.randn(2, 512)
    product = best_product(weight, block)
    assert getattr(product, "layout", None) == layout
    assert_equal(product(x), weight, x)


def test_without_numba_or_fitting_instructions_it_is_torchs_own(monkeypatch):
    weight, x = sparse(64, 512, 0.85), torch.randn(2, 512)
    monkeypatch.setattr(sparse_kernel, "_expands", lambda: False)
    assert isinstance(best_product(weight), DenseProduct)
    monkeypatch.setattr(sparse_kernel, "is_installed", lambda name: False)
    product = best_product(weight * (torch.rand_like(weight) < 0.1))
    assert isinstance(product, DenseProduct)
    assert_equal(best_product(weight)(x), weight, x)
    assert isinstance(best_product(weight.double()), DenseProduct)


@torch.no_grad()
def test_a_masked_product_is_the_plain_one_and_packs_again_after_a_change():
    weight, mask, product = torch.randn(64, 512), sparse(64, 512, 0.2) != 0, MaskedProduct()
    x = torch.randn(2, 512)
    assert_equal(product(x, weight, mask), weight * mask, x)
    packed = product._packed
    product(x, weight, mask)
    assert product._packed is packed
    for change in (lambda: weight.mul_(2), lambda: mask.logical_not_(), product.forget):
        change()
        assert_equal(product(x, weight, mask), weight * mask, x)
        assert product._packed is not packed
        packed = product._packed


def test_masked_products_with_gradients_or_of_many_vectors_are_pytorchs():
    weight, mask, product = torch.randn(8, 16, requires_grad=True), torch.ones(8, 16, dtype=torch.bool), MaskedProduct()
    x = torch.randn(FEW_VECTORS + 1, 16)
    assert torch.equal(product(x[:2], weight, mask), plain_masked_product(x[:2], weight, mask))
    assert product(x[:2], weight, mask).requires_grad
    with torch.no_grad():
        assert torch.equal(product(x, weight, mask), plain_masked_product(x, weight, mask))
    assert product._packed is None
