"""Tools of the losses' numba kernels: compilation, threads, and the bits of floating-point numbers.

The compiler makes no vector loop of a loop that calls math.exp. The kernels therefore compute exponentials themselves,
by additions, multiplications and a shift of bits.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# A number's type in numba: the other kind of number of as many bits, and LLVM's name of that.
_SAME_SIZE: dict[Any, tuple[Any, Any]] = {
    types.float32: (types.int32, ir.IntType(32)),
    types.float64: (types.int64, ir.IntType(64)),
    types.int32: (types.float32, ir.FloatType()),
    types.int64: (types.float64, ir.DoubleType()),
}


@intrinsic
def _bits(typing, x):
    other, llvm_type = _SAME_SIZE[x]

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], llvm_type)

    return other(x), generate


# Within kernels: the bits of a float as an integer, or those of an integer as a float.
bits: Any = _bits


def numba_kernel(signature: str | None = None, **options: Any) -> Callable[[Callable], Callable]:
    """Compile the decorated function without the interpreter's lock and without checks, for all processes if possible.

    With a `signature` it is compiled for these types at import, else for the types of each first call. `options` are
    those of numba.njit.
    """
    settings: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": {"contract"}}
    settings |= options

    def compile_function(function: Callable) -> Callable:
        try:
            return njit(signature, cache=True, **settings)(function)
        except RuntimeError:  # numba finds no folder to keep compiled code in
            return njit(signature, **settings)(function)

    return compile_function


def run_in_threads(threads: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call function(*arguments, i, threads) for i in 0 ... threads - 1, each in a thread.

    These are Python's threads. Of numba's own, OpenMP's abort in a forked process, and the others abort when two
    threads enter at once.
    """
    others = [_pool(threads - 1).submit(function, *arguments, i, threads) for i in range(1, threads)]
    function(*arguments, 0, threads)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "loss")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of its parent's threads
