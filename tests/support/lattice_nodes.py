"""Nodes of a joiner's lattice, and what every engine must make of them."""

from __future__ import annotations

import torch

from residualformer.kernels.tiles_plain import Tiles

NODES = 70


def problem(C, D=37, dtype=torch.float32, spread=1.0):
    """Return (am, lm, weight, bias), (t, s, classes) and grad of NODES nodes; rows of am and lm recur."""
    generator = torch.Generator().manual_seed(C)
    shapes = (9, D), (11, D), (C, D), (C,), (NODES, 2)
    *joiner, grad = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    joiner[2] *= spread
    t, s = (torch.randint(rows, (NODES,), generator=generator) for rows in (9, 11))
    classes = torch.randint(C, (NODES, 2), generator=generator)
    classes[::7, 1] = classes[::7, 0]  # a label that is the blank
    return [each.to(dtype) for each in joiner], (t, s, classes), grad.to(dtype)


def run(kind, joiner, nodes, grad):
    """Return the arcs, and the gradients of the joiner, that tiles of `kind` compute, two of them."""
    arcs, norms = grad.new_empty(NODES, 2), grad.new_empty(NODES)
    grads = [torch.zeros_like(each) for each in joiner]
    tiles = kind(*joiner)
    for rows in tiles.split(NODES, 40):
        tiles.write_log_probs([each[rows] for each in nodes], arcs[rows], norms[rows])
    for rows in tiles.split(NODES, 40):
        tiles.add_grads([each[rows] for each in nodes], norms[rows], grad[rows], grads)
    return arcs, grads


def assert_float64_but_for_rounding(kind, C, spread):
    """Assert that `kind` is as exact as float32 allows.

    tanh is off by 1.5e-7, products of D by a few eps, in logits of up to 5 sqrt(D) spread; and so are gradients.
    """
    joiner, nodes, grad = problem(C, spread=spread)
    exact, exact_grads = run(Tiles, [each.double() for each in joiner], nodes, grad.double())
    arcs, grads = run(kind, joiner, nodes, grad)
    logit = 3e-7 * (5 * 37**0.5 * spread + 5)
    torch.testing.assert_close(arcs.double(), exact, rtol=0, atol=logit)
    for ours, theirs in zip(grads, exact_grads, strict=True):
        assert (ours - theirs).abs().max() <= 2 * logit * theirs.abs().max()
