"""Kernels of sparse products in numba, which must be installed; `kernels.sparse` imports this file when it needs it.

Written in vectors of 16 fp32 numbers, which LLVM maps to what the processor has: a register of AVX-512, two of AVX2.
The products are bound by memory, so each kernel prefetches what it reads far ahead: the processor's own prefetcher is
too slow for streams of a few bytes per product, and that alone makes them twice as fast.

In all of them `values` are the non-zeros, `x` is (N, v), `y` (N, w), and `n` a row of both. Vectors index a matrix as
if it were flat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import models, register_model

intrinsic: Callable[..., Any] = numba.extending.intrinsic  # its types are those of the generator, not of the calls

LANES = 16  # numbers in a vector; `kernels.sparse` packs matrices for as many
AHEAD = 4096  # numbers between what is read and what is prefetched

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _BITS = (ir.VectorType(item, LANES) for item in (_F32, _I32, ir.IntType(1)))


class _Vector(types.Type):
    def __init__(self, name: str, llvm: ir.VectorType) -> None:
        super().__init__(name)
        self.llvm = llvm


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind: _Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


_floats, _ints = _Vector("floats16", _FLOATS), _Vector("ints16", _INTS)


class _Pointers(ir.instructions.Instruction):
    """Addresses of base[index] for a vector of indices, which llvmlite's builder does not know."""

    def descr(self, buffer: list[str]) -> None:
        base, index = self.operands
        places = f"{base.type} {base.get_reference()}, {index.type} {index.get_reference()}"
        buffer.append(f"getelementptr float, {places}\n")


def _address(context, builder, array_type, array, index, kind=None):
    """Return a pointer to array[index], as one to `kind`."""
    pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return builder.bitcast(pointer, kind.as_pointer()) if kind else pointer


def _addresses(context, builder, array_type, array, offset, index):
    """Return pointers to array[offset + index], for a vector of indices."""
    base = _address(context, builder, array_type, array, offset)
    pointers = _Pointers(builder.block, ir.VectorType(base.type, LANES), "getelementptr", [base, index], "places")
    builder._insert(pointers)
    return pointers


def _call(builder, name: str, result, args: list, **options):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, **options)


def _fma(builder, a, b, c):
    return _call(builder, f"llvm.fma.v{LANES}f32", _FLOATS, [a, b, c])


_NONE, _ALL, _ALIGNED = ir.Constant(_FLOATS, [0.0] * LANES), ir.Constant(_BITS, [1] * LANES), ir.Constant(_I32, 4)


@intrinsic
def zeros(typing):
    return _floats(), lambda context, builder, signature, args: _NONE


@intrinsic
def no_index(typing):
    return _ints(), lambda context, builder, signature, args: ir.Constant(_INTS, [0] * LANES)


@intrinsic
def total(typing, a, b):
    """Return the sum of all numbers in two vectors."""

    def generate(context, builder, signature, args):
        start = ir.Constant(_F32, 0.0)
        both = builder.fadd(*args)
        return _call(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", _F32, [start, both], fastmath=("reassoc",))

    return types.float32(a, b), generate


@intrinsic
def plus(typing, a, b):
    return _floats(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def move(typing, index, gaps, k):
    """index + gaps[k : k + 16]"""

    def generate(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(8), LANES)
        pointer = _address(context, builder, signature.args[1], args[1], args[2], kind)
        return builder.add(args[0], builder.zext(builder.load(pointer, align=1), _INTS))

    return _ints(index, gaps, types.intp), generate


@intrinsic
def gather_fma(typing, acc, values, k, x, offset, index):
    """acc + values[k : k + 16] * x[offset + index]"""

    def generate(context, builder, signature, args):
        acc, values, k, x, offset, index = args
        pointers = _addresses(context, builder, signature.args[3], x, offset, index)
        gathered = _call(
            builder, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0", _FLOATS, [pointers, _ALIGNED, _ALL, _NONE]
        )
        factor = builder.load(_address(context, builder, signature.args[1], values, k, _FLOATS), align=4)
        return _fma(builder, factor, gathered, acc)

    return _floats(acc, values, types.intp, x, types.intp, index), generate


@intrinsic
def scatter(typing, y, offset, rows, k, vector):
    """y[offset + rows[k : k + 16]] = vector"""

    def generate(context, builder, signature, args):
        y, offset, rows, k, vector = args
        index = builder.load(_address(context, builder, signature.args[2], rows, k, _INTS), align=4)
        pointers = _addresses(context, builder, signature.args[0], y, offset, index)
        _call(builder, f"llvm.masked.scatter.v{LANES}f32.v{LANES}p0", ir.VoidType(), [vector, pointers, _ALIGNED, _ALL])
        return context.get_dummy_value()

    return types.void(y, types.intp, rows, types.intp, vector), generate


@intrinsic
def expand_fma(typing, acc, values, k, mask, x, j):
    """acc + (values[k:] spread over the ones of `mask`, zeros elsewhere) * x[j : j + 16]"""

    def generate(context, builder, signature, args):
        acc, values, k, mask, x, j = args
        pointer = _address(context, builder, signature.args[1], values, k)
        spread = [pointer, builder.bitcast(mask, _BITS), _NONE]
        expanded = _call(builder, f"llvm.masked.expandload.v{LANES}f32", _FLOATS, spread)
        factor = builder.load(_address(context, builder, signature.args[4], x, j, _FLOATS), align=4)
        return _fma(builder, expanded, factor, acc)

    return _floats(acc, values, types.intp, types.uint16, x, types.intp), generate


@intrinsic
def ones(typing, mask):
    """Return the number of bits that are set in the mask."""
    return types.intp(types.uint16), lambda context, builder, signature, args: builder.zext(
        builder.ctpop(args[0]), _I64
    )


@intrinsic(prefer_literal=True)
def block_fma(typing, acc, values, k, x, offset, index, size):
    """acc + values[k : k + 16] * (16 / size blocks of x, which begin at offset + size * index[k / size : ...])"""
    length = size.literal_value

    def generate(context, builder, signature, args):
        acc, values, k, x, offset, index, _ = args
        first, parts = builder.udiv(k, _I64(length)), []
        for t in range(LANES // length):
            block = builder.load(_address(context, builder, signature.args[5], index, builder.add(first, _I64(t))))
            j = builder.add(offset, builder.mul(builder.zext(block, _I64), _I64(length)))
            kind = ir.VectorType(_F32, length)
            parts.append(builder.load(_address(context, builder, signature.args[3], x, j, kind), align=4))
        while len(parts) > 1:
            order = ir.Constant(ir.VectorType(_I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
            parts = [builder.shuffle_vector(*parts[t : t + 2], order) for t in range(0, len(parts), 2)]
        factor = builder.load(_address(context, builder, signature.args[1], values, k, _FLOATS), align=4)
        return _fma(builder, factor, parts[0], acc)

    return _floats(acc, values, types.intp, x, types.intp, index, size), generate


@intrinsic
def prefetch(typing, array, k):
    """Load array[k], which may lie beyond its end, into the second cache: the first one holds x."""

    def generate(context, builder, signature, args):
        array, k = args
        pointer = _address(context, builder, signature.args[0], array, k, ir.IntType(8))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _kernel(signature: str):
    return njit(f"void({signature})", cache=True, nogil=True, boundscheck=False, error_model="numpy")


@_kernel("f4[::1], u1[::1], i8[::1], i4[::1], f4[:, ::1], f4[:, ::1]")
def sliced(values, gaps, starts, rows, x, y):
    """Take a non-zero of each of 16 rows at once; `gaps` are columns from one non-zero to the next of its row."""
    (num, w), v = y.shape, x.shape[1]
    for s in range(len(starts) - 1):
        for n in range(num):
            a, b, index = zeros(), zeros(), no_index()
            for k in range(starts[s], starts[s + 1], 32):
                prefetch(values, k + AHEAD)
                prefetch(values, k + AHEAD + 16)
                prefetch(gaps, k + AHEAD)
                index = move(index, gaps, k)
                a = gather_fma(a, values, k, x, n * v, index)
                index = move(index, gaps, k + 16)
                b = gather_fma(b, values, k + 16, x, n * v, index)
            scatter(y, n * w, rows, s * 16, plus(a, b))


@_kernel("f4[::1], u2[::1], f4[:, ::1], f4[:, ::1]")
def bitmask(values, masks, x, y):
    """Take 16 columns of a row at once: a bit for each weight, and the non-zeros one after the other."""
    (num, w), v, first = y.shape, x.shape[1], 0
    for r in range(w):
        k = first
        for n in range(num):
            k, a, b, c, d = first, zeros(), zeros(), zeros(), zeros()
            for j in range(0, v, 64):
                m = (r * v + j) // 16
                m0, m1, m2, m3 = masks[m], masks[m + 1], masks[m + 2], masks[m + 3]
                k1 = k + ones(m0)
                k2 = k1 + ones(m1)
                k3 = k2 + ones(m2)
                prefetch(values, k + AHEAD)
                prefetch(values, k1 + AHEAD)
                prefetch(values, k2 + AHEAD)
                prefetch(values, k3 + AHEAD)
                a = expand_fma(a, values, k, m0, x, n * v + j)
                b = expand_fma(b, values, k1, m1, x, n * v + j + 16)
                c = expand_fma(c, values, k2, m2, x, n * v + j + 32)
                d = expand_fma(d, values, k3, m3, x, n * v + j + 48)
                k = k3 + ones(m3)
            y[n, r] = total(plus(a, b), plus(c, d))
        first = k


def _blocks_of(size: int):
    """Return the kernel for blocks of `size` columns, row by row; `index` are the numbers of the blocks."""

    @_kernel("f4[::1], u2[::1], i8[::1], f4[:, ::1], f4[:, ::1]")
    def blocks(values, index, starts, x, y):
        (num, w), v = y.shape, x.shape[1]
        for r in range(w):
            for n in range(num):
                a, b = zeros(), zeros()
                for k in range(starts[r], starts[r + 1], 32):
                    prefetch(values, k + AHEAD)
                    prefetch(values, k + AHEAD + 16)
                    a = block_fma(a, values, k, x, n * v, index, size)
                    b = block_fma(b, values, k + 16, x, n * v, index, size)
                y[n, r] = total(a, b)

    return blocks


blocks_of_4, blocks_of_8 = _blocks_of(4), _blocks_of(8)
