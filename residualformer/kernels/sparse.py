"""Products with sparse matrices at run time: y = W x for the few streams of a frame, one thread, fp32, on a CPU.

A product with one vector is bound by memory, so a layout is judged by the bytes it holds for each weight of W, a share
`d` of which is not zero (fp32 dense: 4). Measured with `benchmarks/sparse_product.py`; PyTorch's CSR product is slower
than its dense one at the densities that matter.

    sliced    5 d          16 rows at once, 8-bit column gaps, gathers     unstructured, d < 0.25
    bitmask   4 d + 1/8    16 columns at once, vector expansion (AVX-512)  unstructured, denser
    blocks    4 d + 2 d/B  row by row, blocks of B = 4 or 8 columns        blocks, d < 0.5

Measured and rejected: 16 columns of a row gathered at once (as `sliced`, but 10 to 20% slower), 16-bit columns instead
of gaps (6 d bytes), two rows at once in `bitmask`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from residualformer.errors import UserError
from residualformer.optional import is_installed, optional

LAYOUTS = ("sliced", "bitmask", "blocks")
SLICED_BELOW = 0.25  # density at which `bitmask` overtakes `sliced`
BLOCKS_BELOW = 0.5  # density at which it overtakes `blocks`
DENSE_ABOVE = 0.9  # density at which torch's dense product is as fast
LANES = 16  # numbers in a vector
Packed = tuple[str, tuple[np.ndarray, ...], tuple[int, int]]  # the kernel's name, its arrays, v and w as it sees them
FEW_VECTORS = 8  # a sparse product with more is not faster than the dense one


class MaskedProduct:
    """The product x (W * mask)ᵀ (N, w) of x (N, v), by a sparse kernel for a few x without gradients.

    The matrix is packed at the first such product, and again at the first one after a change of W or the mask.

    Args:
        block: columns that are zero or not together.
    """

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self._packed_from: tuple[tuple[int, int], ...] | None = None
        self._packed: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        if torch.is_grad_enabled() or len(x) > FEW_VECTORS or x.dtype != torch.float32:
            return plain_masked_product(x, weight, mask)
        now = tuple((tensor.data_ptr(), _version(tensor)) for tensor in (weight, mask))
        if self._packed is None or self._packed_from != now:
            self._packed_from, self._packed = now, best_product(weight * mask, self.block)
        return self._packed(x)

    def forget(self) -> None:
        """Free the packed matrix."""
        self._packed_from = self._packed = None


def plain_masked_product(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Compute `MaskedProduct` by PyTorch's operators."""
    return F.linear(x, weight * mask)


def _version(tensor: Tensor) -> int:
    """Return a number that grows with every change in place; 0 for tensors made in inference mode, which have none."""
    return 0 if tensor.is_inference() else tensor._version


class SparseMatrix:
    """The non-zeros of a matrix W (w, v), packed for products with few vectors.

    Args:
        weight: W (w, v).
        block: columns that are zero or not together.
        layout: one of `LAYOUTS`; default: the one that density and block suggest.

    Raises:
        UserError: numba is not installed, or a layout is unknown or not for this block.
    """

    def __init__(self, weight: Tensor, block: int = 1, layout: str | None = None) -> None:
        optional("numba")
        array = weight.detach().to("cpu", torch.float32).numpy()
        self.layout = layout or suggested_layout(density(weight), block)
        if self.layout not in LAYOUTS or (self.layout == "blocks" and block not in (4, 8)):
            raise UserError(
                f"layout '{self.layout}' with block {block}; allowed: {', '.join(LAYOUTS)}, blocks of 4 or 8"
            )
        pack = {"sliced": _sliced, "bitmask": _bitmask, "blocks": _blocks}[self.layout]
        self._kernel, packed, (self._width, self._height) = pack(array, block)
        self._packed = tuple(torch.from_numpy(part).clone().numpy() for part in packed)  # at 64 bytes, as torch has it
        self.shape, self.nnz = array.shape, int(np.count_nonzero(array))

    @property
    def nbytes(self) -> int:
        """The bytes of the packed matrix."""
        return sum(part.nbytes for part in self._packed)

    def matmul(self, x: Tensor) -> Tensor:
        """Compute x Wᵀ (N, w) of x (N, v); fp32, on a CPU, without gradients."""
        (w, v), x = self.shape, x.detach() if x.requires_grad else x
        if v < self._width:
            x = F.pad(x, (0, self._width - v))
        y = torch.empty(len(x), self._height)
        getattr(_simd(), self._kernel)(*self._packed, x.contiguous().numpy(), y.numpy())
        return y if w == self._height else y[:, :w]

    __call__ = matmul


class DenseProduct:
    """PyTorch's own product x (N, v) -> x Wᵀ (N, w), for matrices that are not sparse enough."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def best_product(weight: Tensor, block: int = 1) -> SparseMatrix | DenseProduct:
    """Return the fastest product x (N, v) -> x Wᵀ (N, w) for small N: PyTorch's dense one unless numba is installed.

    The choice depends on the density and the processor, never on a measurement, so that results repeat to the last bit.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not is_installed("numba"):
        return DenseProduct(weight)
    share = density(weight)
    if share > DENSE_ABOVE or (suggested_layout(share, block) == "bitmask" and not _expands()):
        return DenseProduct(weight)
    return SparseMatrix(weight, block)


def density(weight: Tensor) -> float:
    """Return the share of the weights that are not zero."""
    return weight.count_nonzero().item() / weight.numel()


def suggested_layout(density: float, block: int) -> str:
    """Return the layout for a density and a block size."""
    if block in (4, 8) and density < BLOCKS_BELOW:
        return "blocks"
    return "sliced" if density < SLICED_BELOW else "bitmask"


@functools.cache
def _simd() -> ModuleType:
    from residualformer.kernels import sparse_simd  # compiles at first, then finds the kernels in numba's cache

    return sparse_simd


@functools.cache
def _expands() -> bool:
    """Return whether the processor spreads packed numbers over a vector in one instruction; else `bitmask` is slow."""
    from llvmlite.binding import get_host_cpu_features

    return bool(get_host_cpu_features().get("avx512f"))


def _sliced(array: np.ndarray, block: int) -> Packed:
    """Pack rows sorted by length, 16 to a slice, padded to the longest of the slice (an even number)."""
    w, v = array.shape
    rows, columns = np.nonzero(array)
    first = np.diff(rows, prepend=-1) > 0
    gaps = np.where(first, columns, np.diff(columns, prepend=0))
    stops = gaps // 255  # a gap beyond 8 bits is made in several steps, with a weight of zero at each stop
    steps = np.bincount(rows, stops + 1, w).astype(np.int64)
    place = np.cumsum(stops + 1) - 1 - np.repeat(np.cumsum(steps) - steps, np.bincount(rows, minlength=w))
    order = np.argsort(-steps, kind="stable")
    longest = steps[order[::LANES]]
    starts = np.concatenate([[0], np.cumsum(LANES * (longest + longest % 2))])
    order = np.concatenate([order, np.arange(w, w + -w % LANES)])
    rank = np.argsort(order)[rows]
    target = starts[rank // LANES] + place * LANES + rank % LANES
    packed_values, packed_gaps = np.zeros(starts[-1], np.float32), np.zeros(starts[-1], np.uint8)
    packed_values[target] = array[rows, columns]
    packed_gaps[target] = gaps - 255 * stops
    for back in range(1, stops.max(initial=0) + 1):
        packed_gaps[target[stops >= back] - back * LANES] = 255
    return "sliced", (packed_values, packed_gaps, starts, order.astype(np.int32)), (v, len(order))


def _bitmask(array: np.ndarray, block: int) -> Packed:
    """Pack a bit for each weight, and the non-zeros one after the other."""
    w, v = array.shape
    array = np.pad(array, ((0, 0), (0, -v % (4 * LANES))))  # the kernel's step
    bits = array != 0
    masks = np.packbits(bits, axis=1, bitorder="little").view("<u2").ravel()
    return "bitmask", (np.append(array[bits], np.zeros(LANES, np.float32)), masks), (array.shape[1], w)


def _blocks(array: np.ndarray, block: int) -> Packed:
    """Pack the blocks that are not zero row by row, each with its number."""
    w, v = array.shape
    array = np.pad(array, ((0, 0), (0, -v % block))).reshape(w, -1, block)
    if array.shape[1] > 2**16:
        raise UserError(f"a matrix of {v} columns in blocks of {block}; allowed: at most {2**16} blocks in a row")
    rows, columns = np.nonzero(array.any(axis=2))
    counts, step = np.bincount(rows, minlength=w), 2 * LANES // block
    starts = np.concatenate([[0], np.cumsum(counts + -counts % step)])
    target = np.arange(len(rows)) + np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts)
    values, index = np.zeros((starts[-1], block), np.float32), np.zeros(starts[-1], np.uint16)
    values[target], index[target] = array[rows, columns], columns
    return f"blocks_of_{block}", (values.ravel(), index, starts * block), (array.shape[1] * block, w)
