"""Distillation: a student learns a teacher's outputs at the nodes of the lattice that the teacher's alignments visit.

Panchapagesan et al., "Efficient knowledge distillation for RNN-transducer models", 2021, sum the divergence of the
student's outputs Q from the teacher's P over all nodes (t, u) of the lattice. To bear the cost, they merge all labels
but the next one. Here a node counts as much as the teacher's alignments of the labels visit it:

    L = tau^2 sum_{t,u} gamma(t, u) sum_k P(k | t, u) log (P(k | t, u) / Q(k | t, u))

with P and Q at temperature tau (softmax(logits / tau); tau^2 keeps the size of the gradients, Hinton et al., 2015) and
gamma(t, u), the probability that an alignment, drawn from the teacher's posterior (at tau = 1), visits the node. The
nodes that are left are few enough to keep all classes, and none is learned that no alignment reaches.

Letters: N utterances, T encoder frames, S labels, V classes, M nodes; P and Q are distributions here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from residualformer.constants import BLANK
from residualformer.loss.arcs import loss_with_grads
from residualformer.loss.fused_joiner import pruned_joiner_arcs
from residualformer.loss.simple import get_rnnt_logprobs
from residualformer.nn.joiner import AdditiveJoiner, Joiner

LEAST = 1e-3  # nodes that fewer alignments visit are left out
TILE = 4096  # nodes whose logits are in memory at once


@dataclass(frozen=True)
class Outputs:
    """What a transducer puts out for a batch: its joiner, and both sides of it, projected.

    Attributes:
        am: (N, T, D) encoder frames; lm: (N, S+1, D) predictor outputs.
    """

    joiner: Joiner
    am: Tensor
    lm: Tensor

    @classmethod
    def of(cls, joiner: Joiner, encoded: Tensor, predicted: Tensor) -> Outputs:
        """Project encoder frames (N, T, .) and predictor outputs (N, S+1, .)."""
        return cls(joiner, joiner.project_encoder(encoded), joiner.project_predictor(predicted))

    def arcs(self, tokens: Tensor, boundary: Tensor, ranges: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of labels (N, S, T+1) and blanks (N, S+1, T), log 0 outside given `ranges`."""
        if isinstance(self.joiner, AdditiveJoiner):
            return get_rnnt_logprobs(self.lm, self.am, tokens, BLANK, boundary=boundary)
        output = self.joiner.vocabulary
        return pruned_joiner_arcs(self.am, self.lm, output.weight, output.bias, tokens, ranges, BLANK, boundary)

    def log_probs(self, frames: Tensor, histories: Tensor, temperature: float) -> Tensor:
        """Return the log-probabilities (M, V) at nodes, which are pairs of rows of am and lm, flattened."""
        joint = self.am.flatten(0, 1).index_select(0, frames) + self.lm.flatten(0, 1).index_select(0, histories)
        return (self.joiner.output(joint) / temperature).log_softmax(-1)


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of a batch.

    Attributes:
        teacher: its outputs.
        frames, histories: (M,) rows of am and lm, flattened: the nodes that its alignments visit.
        occupation: (M,) gamma.
        temperature: tau.
    """

    teacher: Outputs
    frames: Tensor
    histories: Tensor
    occupation: Tensor
    temperature: float

    def divergence(self, student: Outputs) -> Tensor:
        """Return L, a scalar in nats, of outputs for the same batch."""
        total = student.am.new_zeros(())
        for start in range(0, len(self.frames), TILE):  # backward computes the logits of a tile again
            total = total + checkpoint(
                self._of_tile, student, slice(start, start + TILE), use_reentrant=False, preserve_rng_state=False
            )
        return self.temperature**2 * total

    def _of_tile(self, student: Outputs, rows: slice) -> Tensor:
        nodes = self.frames[rows], self.histories[rows], self.temperature
        with torch.no_grad():
            p = self.teacher.log_probs(*nodes)
        q = student.log_probs(*nodes)
        return self.occupation[rows] @ (p.exp() * (p - q)).sum(1)


@torch.no_grad()
def soft_targets(
    teacher: Outputs,
    tokens: Tensor,
    boundary: Tensor,
    ranges: Tensor | None = None,
    temperature: float = 1.0,
    least: float = LEAST,
) -> SoftTargets:
    """Return what a teacher says of labels `tokens` (N, S), at the nodes with gamma above `least`.

    Args:
        boundary: (N, 4), see `simple.py`; ranges: (N, T, R), label positions to which a tanh joiner's alignments keep.

    Raises NotFiniteError if the teacher's logits of an utterance hold nan or inf.
    """
    px, py = teacher.arcs(tokens, boundary, ranges)
    _, (px_grad, py_grad) = loss_with_grads(px, py, boundary, 0.0, "none", return_grad=True)
    gamma = py_grad.clone()  # (N, S+1, T): a path leaves a node by its label or by its blank
    gamma[:, :-1] += px_grad[:, :, :-1]
    n, u, t = (gamma > least).nonzero(as_tuple=True)
    _, positions, size = gamma.shape
    return SoftTargets(teacher, n * size + t, n * positions + u, gamma[n, u, t], temperature)
