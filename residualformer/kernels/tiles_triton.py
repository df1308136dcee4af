"""Tiles of float32 tensors on CUDA, in Triton, which must be installed: `tiles.py` imports this file when it needs it.

Forward never writes a logit: a program takes ROWS nodes through the classes, CLASSES at a time, and keeps their
largest logit and sum of exponentials so far (Milakov and Gimelshein, "Online normalizer calculation for softmax",
2018), so that a tile may have many nodes. Backward writes the gradients of a tile's logits in one pass, since three
sums need them; the two products among these are cuBLAS's.

Products are of bf16 factors with `bf16` (those of cuBLAS of TF32 ones), else of three TF32 parts, which is nearly as
exact as float32. Sums are float32.

It has run in Triton's interpreter and compiles for sm_80 and sm_90. No GPU has run it: its speed is unknown, and the
sizes of its blocks are guesses that fit the shared memory of any GPU since 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from residualformer.kernels.tiles_plain import Nodes, Tiles
from residualformer.kernels.triton_tools import check, launch, product, tanh

ROWS, CLASSES, DEPTH = 64, 64, 16  # of a program: nodes, classes, and joint dimensions in a step of the product
OPTIONS = {"num_warps": 8, "num_stages": 2}  # with 4, float32 does not fit the registers of sm_80

_LOWEST = tl.constexpr(-3.4e38)  # finite, so that classes of logit -inf, the first among them, count nothing


@triton.jit
def _join(am, lm, t, s, joint, M, D, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Write tanh(am[t] + lm[s]) into joint (M, D)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    real = (row < M)[:, None] & (d < D)[None, :]
    t_row, s_row = tl.load(t + row, mask=row < M, other=0), tl.load(s + row, mask=row < M, other=0)
    x = tl.load(am + t_row[:, None] * D + d[None, :], mask=real, other=0.0)
    x += tl.load(lm + s_row[:, None] * D + d[None, :], mask=real, other=0.0)
    tl.store(joint + row[:, None] * D + d[None, :], tanh(x), mask=real)


@triton.jit
def _logits(joint, weight, bias, row, c, M, C, D, ROWS: tl.constexpr, CLASSES: tl.constexpr, DEPTH: tl.constexpr):
    """Return the logits of nodes `row` for classes `c`, (ROWS, CLASSES); -inf for classes from C on."""
    logits = tl.zeros((ROWS, CLASSES), tl.float32)
    for first in range(0, D, DEPTH):
        d = first + tl.arange(0, DEPTH)
        h = tl.load(joint + row[:, None] * D + d[None, :], mask=(row < M)[:, None] & (d < D)[None, :], other=0.0)
        w = tl.load(weight + c[None, :] * D + d[:, None], mask=(c < C)[None, :] & (d < D)[:, None], other=0.0)
        logits = product(h, w, logits)
    return logits + tl.load(bias + c, mask=c < C, other=float("-inf"))[None, :]


@triton.jit
def _log_probs(
    joint, weight, bias, classes, log_probs, norms, M, C, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the log-probabilities of classes (M, 2) into log_probs (M, 2), and the log-normalizers into norms (M,)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < M
    label, blank = tl.load(classes + 2 * row, mask=real, other=0), tl.load(classes + 2 * row + 1, mask=real, other=0)
    largest, total = tl.full((ROWS,), _LOWEST, tl.float32), tl.zeros((ROWS,), tl.float32)
    label_logit, blank_logit = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in range(0, C, CLASSES):
        c = first + tl.arange(0, CLASSES)
        logits = _logits(joint, weight, bias, row, c, M, C, D, ROWS, CLASSES, DEPTH)
        larger = tl.maximum(largest, tl.max(logits, 1))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(logits - larger[:, None]), 1)
        largest = larger
        label_logit += tl.sum(tl.where(c[None, :] == label[:, None], logits, 0.0), 1)
        blank_logit += tl.sum(tl.where(c[None, :] == blank[:, None], logits, 0.0), 1)
    norm = largest + tl.log(total)
    tl.store(norms + row, norm, mask=real)
    tl.store(log_probs + 2 * row, label_logit - norm, mask=real)
    tl.store(log_probs + 2 * row + 1, blank_logit - norm, mask=real)


@triton.jit
def _grads_of_logits(
    joint, weight, bias, classes, norms, grad, logits_grad, bias_parts, M, C, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the logits (M, C), given grad (M, 2), and their sums over ROWS nodes into bias_parts."""
    block = tl.program_id(0)
    row, c = block * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    real, known = row < M, c < C
    label, blank = tl.load(classes + 2 * row, mask=real, other=0), tl.load(classes + 2 * row + 1, mask=real, other=0)
    label_grad = tl.load(grad + 2 * row, mask=real, other=0.0)
    blank_grad = tl.load(grad + 2 * row + 1, mask=real, other=0.0)
    norm = tl.load(norms + row, mask=real, other=0.0)
    logits = _logits(joint, weight, bias, row, c, M, C, D, ROWS, CLASSES, DEPTH)
    each = -(label_grad + blank_grad)[:, None] * tl.exp(logits - norm[:, None])
    each += tl.where(c[None, :] == label[:, None], label_grad[:, None], 0.0)
    each += tl.where(c[None, :] == blank[:, None], blank_grad[:, None], 0.0)
    each = tl.where(real[:, None], each, 0.0)
    tl.store(logits_grad + row[:, None] * C + c[None, :], each, mask=real[:, None] & known[None, :])
    tl.store(bias_parts + block * C + c, tl.sum(each, 0), mask=known)


class TritonTiles(Tiles):
    """`Tiles` of float32 tensors on one CUDA device. Raises UserError for others."""

    ENGINE = "triton"
    FORWARD = 8  # forward has a program per ROWS nodes, so that a GPU wants tens of thousands

    def __init__(self, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, bf16: bool = False) -> None:
        check("the loss of a joiner", am)
        super().__init__(am.contiguous(), lm.contiguous(), weight.contiguous(), bias.contiguous(), bf16)
        self.factor = self.weight.bfloat16() if bf16 else self.weight  # of the products in the kernels

    def make_room(self, size: int) -> None:
        self.joint = self.am.new_empty(size, self.am.shape[1])

    def write_log_probs(self, nodes: Nodes, log_probs: Tensor, norms: Tensor) -> None:
        _, factor = self._join(nodes)
        grid = (triton.cdiv(len(norms), ROWS),)
        self._launch(_log_probs, grid, factor, self.factor, self.bias, nodes[2], log_probs, norms)

    def add_grads(self, nodes: Nodes, norms: Tensor, grad: Tensor, grads: Sequence[Tensor]) -> None:
        M, C = len(norms), len(self.weight)
        joint, factor = self._join(nodes)
        if len(self.logits) < M:
            self.logits = joint.new_empty(M, C)
        logits, grid = self.logits[:M], (triton.cdiv(M, ROWS), triton.cdiv(C, CLASSES))
        bias_parts = joint.new_empty(grid[0], C)
        arguments = factor, self.factor, self.bias, nodes[2], norms, grad, logits, bias_parts
        self._launch(_grads_of_logits, grid, *arguments)
        self._add_grads_of_logits(nodes, joint, logits, bias_parts, grads)

    def _join(self, nodes: Nodes) -> tuple[Tensor, Tensor]:
        """Return the joint vectors (m, D), and as the kernels' products take them."""
        t, s, _ = nodes
        joint, (M, D) = self.joint[: len(t)], (len(t), self.am.shape[1])
        grid = triton.cdiv(M, ROWS), triton.cdiv(D, DEPTH)
        launch(_join, grid, joint, self.am, self.lm, t, s, joint, M, D, ROWS=ROWS, DEPTH=DEPTH)
        return joint, joint.bfloat16() if self.bf16 else joint

    def _launch(self, kernel: object, grid: tuple[int, ...], joint: Tensor, *arguments: Tensor) -> None:
        sizes = len(joint), len(self.weight), joint.shape[1]
        launch(kernel, grid, joint, joint, *arguments, *sizes, ROWS=ROWS, CLASSES=CLASSES, DEPTH=DEPTH, **OPTIONS)
