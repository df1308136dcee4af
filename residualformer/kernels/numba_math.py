"""Exponential functions of float32 within numba's kernels.

The compiler makes no vector loop of a loop that calls math.exp; these are additions, multiplications and a shift.
"""

from __future__ import annotations

import numpy as np

from residualformer.kernels.numba_tools import bits, numba_kernel

FAR = np.float32(-69.0)  # exp of less is set to 0; exp of more, times a gradient, stays clear of slow denormal numbers
ZERO, ONE, TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)

_LOG2E, _SHIFT = np.float32(1.4426950408889634), np.float32(1.5 * 2.0**23)  # the bits of x + _SHIFT end in round(x)
_EXPONENT, _ONE = np.int32(23), np.int32(127 << 23)  # where a float32 holds its exponent; the bits of 1.0
# 2^r, |r| <= 1/2, to a relative 7.5e-8: Remez's best polynomial of degree 5
_P0, _P1, _P2 = np.float32(1.00000007), np.float32(0.693146967), np.float32(0.240221197)
_P3, _P4, _P5 = np.float32(0.0555071327), np.float32(0.00967554133), np.float32(0.00132764720)


@numba_kernel()
def exp(x):
    """Return exp(x), x <= 0, with a relative error of (2 + |x|) 1e-7, as the rounding of x alone would cause."""
    y = x * _LOG2E
    shifted = y + _SHIFT
    r = y - (shifted - _SHIFT)
    p = _P0 + r * (_P1 + r * (_P2 + r * (_P3 + r * (_P4 + r * _P5))))
    return ZERO if x < FAR else p * bits(np.int32((bits(shifted) << _EXPONENT) + _ONE))


@numba_kernel()
def tanh(x):
    """Return tanh(x) with an error of 1.5e-7."""
    z = exp(-TWO * abs(x))
    y = (ONE - z) / (ONE + z)
    return -y if x < ZERO else y


@numba_kernel()
def sigmoid(x):
    """Return the logistic function of x with an error of 1.5e-7."""
    z = exp(-abs(x))
    y = ONE / (ONE + z)
    return z * y if x < ZERO else y
