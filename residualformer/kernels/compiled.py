"""What kernels in numba share, which must be installed: how they are compiled, and how their work is shared out.

Loops over what numba has no vector of, such as exp, are no vector loops: hence exponentials of additions, products and
a shift of bits, in the files that need them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_TWINS = {  # types of as many bits: each other's, and what LLVM calls the other
    types.float32: (types.int32, ir.IntType(32)),
    types.float64: (types.int64, ir.IntType(64)),
    types.int32: (types.float32, ir.FloatType()),
    types.int64: (types.float64, ir.DoubleType()),
}


@intrinsic
def bits(typing, x):
    """The bits of a float as an integer, or of an integer as a float."""
    twin, llvm = _TWINS[x]

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], llvm)

    return twin(x), generate


def kernel(signature: str | None = None, **options) -> Callable:
    """Decorator: compiled without the interpreter's lock, without checks, and once for all processes if it can be."""

    def compiled(function: Callable) -> Callable:
        settings = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": {"contract"}} | options
        try:
            return njit(signature, cache=True, **settings)(function)
        except RuntimeError:  # there is no folder to keep compiled code in
            return njit(signature, **settings)(function)

    return compiled


def share(threads: int, function: Callable, *arguments) -> None:
    """Call function(*arguments, i, threads) for i in 0..threads-1, each in a thread of its own.

    They are Python's: of numba's own, OpenMP's abort in a forked process, and the others when two threads come at once.
    """
    others = [_pool(threads - 1).submit(function, *arguments, i, threads) for i in range(1, threads)]
    function(*arguments, 0, threads)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "loss")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of its parent's threads
