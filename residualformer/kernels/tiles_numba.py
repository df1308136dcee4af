"""Tiles on a CPU, float32, in numba, which must be installed: `fused_joiner.py` imports this file when it needs it.

Products of matrices are torch's. The rest takes one pass over a row for each thing that must be known before the next
can begin, while the row lies in a core's first cache, instead of a pass over the tile for each operation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from residualformer.kernels.compiled import bits, kernel, share
from residualformer.kernels.tiles import Tiles

NUMBERS_PER_THREAD = 2**17  # fewer do not pay for another thread
FAR = np.float32(-69.0)  # exp of less is 0: times a gradient 1e-30 is no denormal number yet, which would be slow
ZERO, ONE, TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)

_LOG2E, _SHIFT = np.float32(1.4426950408889634), np.float32(1.5 * 2.0**23)  # x + _SHIFT ends in the nearest integer
_EXPONENT, _ONE = np.int32(23), np.int32(127 << 23)  # where a float32 holds its exponent; the bits of 1.0
_SIGN, _REST = np.int32(31), np.int32(0x7FFFFFFF)
# 2^r, |r| <= 1/2, to a relative 7.5e-8: Remez's best polynomial of degree 5
_P0, _P1, _P2 = np.float32(1.00000007), np.float32(0.693146967), np.float32(0.240221197)
_P3, _P4, _P5 = np.float32(0.0555071327), np.float32(0.00967554133), np.float32(0.00132764720)


@kernel()
def _exp(x):
    """exp(x), x <= 0, to a relative (2 + |x|) 1e-7: what follows |x| is about what the rounding of x costs anyway."""
    y = x * _LOG2E
    shifted = y + _SHIFT
    r = y - (shifted - _SHIFT)
    p = _P0 + r * (_P1 + r * (_P2 + r * (_P3 + r * (_P4 + r * _P5))))
    return ZERO if x < FAR else p * bits(np.int32((bits(shifted) << _EXPONENT) + _ONE))


@kernel()
def _tanh(x):
    """tanh(x) to 1.5e-7."""
    z = _exp(-TWO * abs(x))
    y = (ONE - z) / (ONE + z)
    return -y if x < ZERO else y


@kernel()
def _ordered(n):
    """The bits of a float32 as an integer that grows with it, or back: maxima of integers make vector loops."""
    return np.int32(n ^ ((n >> _SIGN) & _REST))


@kernel()
def _add_bias(x, bias):
    """The largest of x += bias; nan if there are only such."""
    largest = np.int32(-(2**31))
    for c in range(np.uintp(len(x))):
        x[c] += bias[c]
        largest = max(largest, _ordered(bits(x[c])))
    return bits(_ordered(largest))


@kernel(fastmath={"contract", "reassoc"})
def _sum_exp(x, largest):
    total = ZERO
    for c in range(np.uintp(len(x))):
        total += _exp(x[c] - largest)
    return total


@kernel(fastmath={"contract", "reassoc"})
def _sum_exp_(x, largest):
    """`_sum_exp`, and x becomes its exponentials."""
    total = ZERO
    for c in range(np.uintp(len(x))):
        x[c] = _exp(x[c] - largest)
        total += x[c]
    return total


@kernel("void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f4[:, ::1], i8, i8)")
def _join(am, lm, t, s, joint, first, every):
    """joint (m, D) = tanh(am[t] + lm[s]); rows first, first + every, ..., here and in the next two."""
    for row in range(first, len(t), every):
        a, b, h = am[t[row]], lm[s[row]], joint[row]
        for d in range(np.uintp(len(h))):
            h[d] = _tanh(a[d] + b[d])


@kernel("void(f4[:, ::1], f4[::1], i8[:, ::1], f4[:, ::1], i8, i8)")
def _arcs(logits, bias, classes, arcs, first, every):
    """arcs (m, 2), the log-probabilities of classes (m, 2) by logits (m, C) + bias (C,); `logits` is overwritten."""
    for row in range(first, len(logits), every):
        x = logits[row]
        largest = _add_bias(x, bias)
        log_total = np.float32(math.log(_sum_exp(x, largest)))
        for k in range(2):
            arcs[row, k] = x[classes[row, k]] - largest - log_total


@kernel("void(f4[:, ::1], f4[::1], i8[:, ::1], f4[:, ::1], i8, i8)")
def _grads_of_logits(logits, bias, classes, grad, first, every):
    """logits (m, C) become their gradients, of grad (m, 2), that of `_arcs`."""
    for row in range(first, len(logits), every):
        x = logits[row]
        largest = _add_bias(x, bias)
        scale = -(grad[row, 0] + grad[row, 1]) / _sum_exp_(x, largest)
        for c in range(np.uintp(len(x))):
            x[c] *= scale
        for k in range(2):
            x[classes[row, k]] += grad[row, k]


@kernel("void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f4[:, ::1], f4[:, ::1], i8, i8)")
def _grads_of_sides(joint, joint_grad, t, s, am_grad, lm_grad, part, parts):
    """Add joint_grad (m, D), times tanh', to the rows t and s of the sides' gradients; a thread has some columns."""
    D = joint.shape[1]
    low, high = D * part // parts, D * (part + 1) // parts
    for row in range(len(t)):
        h, g = joint[row, low:high], joint_grad[row, low:high]
        a, b = am_grad[t[row], low:high], lm_grad[s[row], low:high]
        for d in range(np.uintp(len(h))):
            g[d] *= ONE - h[d] * h[d]
        for d in range(np.uintp(len(h))):
            a[d] += g[d]
        for d in range(np.uintp(len(h))):
            b[d] += g[d]


class CompiledTiles(Tiles):
    """`Tiles` of float32 tensors on a CPU; threads change no bit."""

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__(am.contiguous(), lm.contiguous(), weight, bias.contiguous())

    def write_arcs(self, t: Tensor, s: Tensor, classes: Tensor, arcs: Tensor) -> None:
        _run(_arcs, self._forwards(t, s)[1], self.bias, classes, arcs)

    def add_grads(
        self, t: Tensor, s: Tensor, classes: Tensor, grad: Tensor,
        am_grad: Tensor, lm_grad: Tensor, weight_grad: Tensor, bias_grad: Tensor,
    ) -> None:  # fmt: skip
        joint, logits = self._forwards(t, s)
        _run(_grads_of_logits, logits, self.bias, classes, grad)
        weight_grad.addmm_(logits.t(), joint)
        bias_grad += logits.sum(0)
        joint_grad = torch.mm(logits, self.weight, out=self.other[: len(t)])
        _run(_grads_of_sides, joint, joint_grad, t, s, am_grad, lm_grad)

    def _forwards(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Tiles`, but the logits lack the bias: the kernels add it, faster than a product of matrices does."""
        joint = self.joint[: len(t)]
        _run(_join, self.am, self.lm, t, s, joint)
        return joint, torch.mm(joint, self.weight.t(), out=self.logits[: len(t)])


def _run(function, *tensors: Tensor) -> None:
    numbers = max(each.numel() for each in tensors if each.ndim == 2)
    threads = max(1, min(torch.get_num_threads(), numbers // NUMBERS_PER_THREAD))
    share(threads, function, *(each.detach().numpy() for each in tensors))
