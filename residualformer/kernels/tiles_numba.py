"""Tiles of float32 tensors on a CPU, in numba, which must be installed: `tiles.py` imports this file when it needs it.

Matrix products are torch's. All else makes few passes over a row while it lies in a core's first-level cache, instead
of a pass over the whole tile for each operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from residualformer.kernels.numba_math import ONE, ZERO, exp, tanh
from residualformer.kernels.numba_tools import bits, numba_kernel, run_in_threads
from residualformer.kernels.tiles_plain import Nodes, Tiles

NUMBERS_PER_THREAD = 2**17  # with fewer, another thread does not pay
_SIGN, _REST = np.int32(31), np.int32(0x7FFFFFFF)


@numba_kernel()
def _ordered(n):
    """Map the bits of a float32 to an integer that grows with it, or back; maxima of integers make vector loops."""
    return np.int32(n ^ ((n >> _SIGN) & _REST))


@numba_kernel()
def _add_bias(x, bias):
    """Add bias to x and return the largest; nan if all are nan."""
    largest = np.int32(-(2**31))
    for c in range(np.uintp(len(x))):
        x[c] += bias[c]
        largest = max(largest, _ordered(bits(x[c])))
    return bits(_ordered(largest))


@numba_kernel(fastmath={"contract", "reassoc"})
def _sum_exp(x, largest):
    """Return the sum of exp(x - largest)."""
    total = ZERO
    for c in range(np.uintp(len(x))):
        total += exp(x[c] - largest)
    return total


@numba_kernel("void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f4[:, ::1], i8, i8)")
def _join(am, lm, t, s, joint, first, every):
    """Write tanh(am[t] + lm[s]) into joint (m, D), rows first, first + every, ... as in the next two kernels."""
    for row in range(first, len(t), every):
        a, b, h = am[t[row]], lm[s[row]], joint[row]
        for d in range(np.uintp(len(h))):
            h[d] = tanh(a[d] + b[d])


@numba_kernel("void(f4[:, ::1], f4[::1], i8[:, ::1], f4[:, ::1], f4[::1], i8, i8)")
def _log_probs(logits, bias, classes, log_probs, norms, first, every):
    """Write the log-probabilities of classes (m, 2) under logits (m, C) + bias (C,), and the log-normalizers (m,).

    `logits` is overwritten.
    """
    for row in range(first, len(logits), every):
        x = logits[row]
        largest = _add_bias(x, bias)
        log_total = np.float32(math.log(_sum_exp(x, largest)))
        norms[row] = largest + log_total
        for k in range(2):
            log_probs[row, k] = x[classes[row, k]] - largest - log_total


@numba_kernel("void(f4[:, ::1], f4[::1], i8[:, ::1], f4[::1], f4[:, ::1], i8, i8)")
def _grads_of_logits(logits, bias, classes, norms, grad, first, every):
    """Overwrite logits (m, C) by their gradients, given grad (m, 2), that of `_log_probs`."""
    for row in range(first, len(logits), every):
        x, norm, scale = logits[row], norms[row], -(grad[row, 0] + grad[row, 1])
        for c in range(np.uintp(len(x))):
            x[c] = scale * exp(x[c] + bias[c] - norm)
        for k in range(2):
            x[classes[row, k]] += grad[row, k]


@numba_kernel("void(f4[:, ::1], f4[:, ::1], i8[::1], i8[::1], f4[:, ::1], f4[:, ::1], i8, i8)")
def _grads_of_sides(joint, joint_grad, t, s, am_grad, lm_grad, part, parts):
    """Add joint_grad (m, D) times tanh' to the rows t and s of am_grad and lm_grad; each thread has some columns."""
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


class NumbaTiles(Tiles):
    """`Tiles` of float32 tensors on a CPU; the number of threads changes no bit but those of PyTorch's products."""

    ENGINE = "numba"

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, bf16: bool = False) -> None:
        super().__init__(am.contiguous(), lm.contiguous(), weight, bias.contiguous(), bf16)

    def write_log_probs(self, nodes: Nodes, log_probs: Tensor, norms: Tensor) -> None:
        t, s, classes = nodes
        _run(_log_probs, self._forwards(t, s)[1], self.bias, classes, log_probs, norms)

    def add_grads(self, nodes: Nodes, norms: Tensor, grad: Tensor, grads: Sequence[Tensor]) -> None:
        t, s, classes = nodes
        am_grad, lm_grad, weight_grad, bias_grad = grads
        joint, logits = self._forwards(t, s)
        _run(_grads_of_logits, logits, self.bias, classes, norms, grad)
        weight_grad.addmm_(logits.t(), joint)
        bias_grad += logits.sum(0)
        joint_grad = torch.mm(logits, self.weight, out=self.other[: len(t)])
        _run(_grads_of_sides, joint, joint_grad, t, s, am_grad, lm_grad)

    def _forwards(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint vectors and the logits without the bias, which the kernels add faster than torch.addmm."""
        joint = self.joint[: len(t)]
        _run(_join, self.am, self.lm, t, s, joint)
        return joint, torch.mm(joint, self.weight.t(), out=self.logits[: len(t)])


def _run(function: Callable[..., None], *tensors: Tensor) -> None:
    """Call a kernel on the arrays of `tensors`, in as many threads as pay."""
    numbers = max(each.numel() for each in tensors if each.ndim == 2)
    threads = max(1, min(torch.get_num_threads(), numbers // NUMBERS_PER_THREAD))
    run_in_threads(threads, function, *(each.detach().numpy() for each in tensors))
