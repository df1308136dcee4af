"""Beam search over a transducer lattice that sums over the alignments of a label sequence.

The search is that of Graves (2012, "Sequence transduction with recurrent neural networks", section 2.4) with W
hypotheses, organized in rounds (time-synchronous, as in Saon et al., 2020, section 2.1) so that all hypotheses of all
utterances move together. For a frame t, with A the W sequences y that are alive and their probabilities P(y):

    B = {}
    for s = 0 ... S (S = max_symbols):
        for y in A:  B[y] += P(y) P(blank | y, t)           paths that write s labels at t, then go on to t + 1
        if s < S:    A = the W best of P(y) P(k | y, t), y in A, k != blank, as long as they beat the W-th of B
    alive = the W best of B

A path below the W-th of B can only lose more, and Graves stops there as well; it cannot enter the beam by itself.
A reward for each label (`token_reward`) multiplies P(k | y, t) by its exponential: the W best are chosen with it.
With a beam that holds everything the result is exact: the sum over all alignments of at most S labels per frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.constants import BLANK
from residualformer.decode.hypotheses import History, extend_keys
from residualformer.hypothesis import Hypothesis
from residualformer.nn.transducer import Transducer


@dataclass
class Beam:
    """W sequences for each of N utterances; an unused slot has score -inf.

    scores (N, W) float64, log P; keys (N, W) int64, equal for equal sequences; nodes (N, W) int64, into `History`;
    rows (N, W) int64, into the predictor's outputs.
    """

    scores: Tensor
    keys: Tensor
    nodes: Tensor
    rows: Tensor

    def select(self, index: Tensor, scores: Tensor) -> Beam:
        """Return the slots `index` (N, W') with new `scores`."""
        return Beam(scores, *(part.gather(1, index) for part in (self.keys, self.nodes, self.rows)))

    def first(self, num_utterances: int) -> Beam:
        """Return the beams of the first utterances."""
        return Beam(*(part[:num_utterances] for part in (self.scores, self.keys, self.nodes, self.rows)))


@dataclass
class Predicted:
    """The predictor after M sequences: its output projected for the joiner (M, J), and its state, tensors (M, ...)."""

    outputs: Tensor
    state: tuple[Tensor, ...]

    def select(self, rows: Tensor) -> Predicted:
        """Return the rows `rows` (M',)."""
        return Predicted(self.outputs[rows], tuple(part[rows] for part in self.state))

    @staticmethod
    def join(parts: list[Predicted]) -> Predicted:
        """Concatenate the rows of all parts."""
        states = zip(*(part.state for part in parts), strict=True)
        return Predicted(torch.cat([part.outputs for part in parts]), tuple(torch.cat(state) for state in states))


class BeamSearch:
    """The search described above, for a batch of utterances by a model in eval mode; see `beam_search`."""

    def __init__(self, model: Transducer, settings: DecodeConfig) -> None:
        self.model, self.settings = model, settings
        self.history = History()

    def run(self, encoded: Tensor, lengths: list[int]) -> list[tuple[list[float], list[int]]]:
        """Search `encoded` (N, T, D), longest utterance first; return scores and nodes of each, best first."""
        encoded = self.model.joiner.project_encoder(encoded)
        beam, predicted = self._start(encoded.shape[0], encoded.device)
        finished: list[tuple[list[float], list[int]]] = []
        for t in range(max(lengths, default=0) + 1):
            running = sum(length > t for length in lengths)
            if running < beam.scores.shape[0]:
                ended = zip(beam.scores[running:].tolist(), beam.nodes[running:].tolist(), strict=True)
                finished = [*ended, *finished]
                beam = beam.first(running)
            if running:
                beam, predicted = self._frame(encoded[:running, t], t, beam, predicted)
        return finished

    def _start(self, num_utterances: int, device: torch.device) -> tuple[Beam, Predicted]:
        """Return the empty sequence with probability 1 for each utterance."""
        blanks = torch.full((num_utterances,), BLANK, device=device)
        predicted = self._predict(blanks, self.model.predictor.init_state(num_utterances))
        zeros = torch.zeros(num_utterances, 1, dtype=torch.int64, device=device)
        rows = torch.arange(num_utterances, device=device)[:, None]
        return Beam(zeros.double(), zeros, zeros, rows), predicted

    def _frame(self, frame: Tensor, t: int, alive: Beam, predicted: Predicted) -> tuple[Beam, Predicted]:
        """Search one frame (N, J) of the encoder, at time t, for all utterances that still run."""
        parts, offset = [predicted], 0
        logp = self._log_probabilities(frame, alive, predicted)
        done = replace(alive, scores=alive.scores + logp[..., BLANK])
        for _ in range(self.settings.max_symbols):
            extended = self._expand(alive, logp, done)
            if extended is None:
                break
            offset += predicted.outputs.shape[0]
            alive, predicted = self._write(*extended, t, predicted)
            parts.append(predicted)
            logp = self._log_probabilities(frame, alive, predicted)
            done = _add(done, replace(alive, scores=alive.scores + logp[..., BLANK], rows=alive.rows + offset))
        scores, index = done.scores.topk(min(self.settings.beam, done.scores.shape[1]), dim=1)
        beam = done.select(index, scores)
        kept = Predicted.join(parts).select(beam.rows.flatten())
        rows = torch.arange(beam.rows.numel(), device=beam.rows.device).view_as(beam.rows)
        return replace(beam, rows=rows), kept

    def _log_probabilities(self, frame: Tensor, alive: Beam, predicted: Predicted) -> Tensor:
        """Return log P(label | sequence, frame) (N, W, V) of a frame (N, J) and the sequences of `alive`."""
        logits = self.model.joiner.output(frame[:, None] + predicted.outputs[alive.rows])
        if self.settings.blank_penalty:
            logits[..., BLANK] -= self.settings.blank_penalty
        return logits.log_softmax(-1)

    def _expand(self, alive: Beam, logp: Tensor, done: Beam) -> tuple[Beam, Tensor] | None:
        """Return the W best one-label extensions that may enter the beam, and their labels (N, W'), or None.

        They still carry key, node and row of the sequence that they extend. `logp` is (N, W, V).
        """
        width = self.settings.beam
        scores = ((alive.scores + self.settings.token_reward)[..., None] + logp[..., 1:]).flatten(1)  # (N, W (V - 1))
        scores, index = scores.topk(min(width, scores.shape[1]), dim=1)
        if done.scores.shape[1] >= width:
            worst = done.scores.topk(width, dim=1).values[:, -1:]
            scores = scores.masked_fill(scores <= worst, -torch.inf)
        count = int(scores.isfinite().sum(1).max())  # sorted, so the living ones come first
        if count == 0:
            return None
        scores, index = scores[:, :count], index[:, :count]
        num_labels = logp.shape[2] - 1
        return alive.select(index // num_labels, scores), index % num_labels + 1

    def _write(self, parent: Beam, labels: Tensor, t: int, predicted: Predicted) -> tuple[Beam, Predicted]:
        """Append `labels` (N, W) to the sequences of `parent`; the predictor runs only for the living ones."""
        living = parent.scores.isfinite()
        predicted = self._predict(labels[living], predicted.select(parent.rows[living]).state)
        nodes, rows = torch.zeros_like(parent.nodes), torch.zeros_like(parent.rows)
        nodes[living] = self.history.append(parent.nodes[living], labels[living], t)
        rows[living] = torch.arange(predicted.outputs.shape[0], device=rows.device)
        return Beam(parent.scores, extend_keys(parent.keys, labels), nodes, rows), predicted

    def _predict(self, labels: Tensor, state: tuple[Tensor, ...]) -> Predicted:
        out, state = self.model.predictor.step(labels, state)
        return Predicted(self.model.joiner.project_predictor(out), state)


def _add(done: Beam, new: Beam) -> Beam:
    """Add the paths of `new` (N, W) to those of `done` (N, M): equal sequences are merged, their probabilities summed.

    Neither side holds a sequence twice: each round of a frame appends equally many labels to different sequences.
    A merged sequence keeps the label times of its likelier path.
    """
    used = done.scores.isfinite()[:, :, None] & new.scores.isfinite()[:, None]
    same = used & (done.keys[:, :, None] == new.keys[:, None])  # (N, M, W)
    scores, partner = new.scores[:, None].expand_as(same).masked_fill(~same, -torch.inf).max(2)  # (N, M)
    nodes = torch.where(scores > done.scores, new.nodes.gather(1, partner), done.nodes)
    done = Beam(torch.logaddexp(done.scores, scores), done.keys, nodes, done.rows)
    new = replace(new, scores=new.scores.masked_fill(same.any(1), -torch.inf))
    pairs = ((done.scores, new.scores), (done.keys, new.keys), (done.nodes, new.nodes), (done.rows, new.rows))
    return Beam(*(torch.cat(pair, dim=1) for pair in pairs))


@torch.no_grad()
def beam_search(model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[list[Hypothesis]]:
    """Return the `nbest` likeliest label sequences of each utterance, best first; fewer where there are fewer.

    Args:
        model: the transducer, in eval mode.
        encoded: (N, T, D) the encoder's output.
        lengths: (N,) int64 valid frames.
        settings: W is `beam`, S is `max_symbols`; `length_norm` orders the list by `Hypothesis.score_per_label`.

    A hypothesis's `score` is its log-probability, without the reward; its `frames` are those of its likeliest alignment
    among the merged ones.
    """
    order = lengths.argsort(descending=True, stable=True)
    search = BeamSearch(model, settings)
    results = search.run(encoded[order], lengths[order].tolist())
    most = settings.beam if settings.length_norm else settings.nbest
    kept = [[(s, n) for s, n in zip(*result, strict=True) if s > -torch.inf][:most] for result in results]
    paths = iter(search.history.trace([node for pairs in kept for _, node in pairs]))
    found = [[_hypothesis(*next(paths), score, settings.token_reward) for score, _ in pairs] for pairs in kept]
    if settings.length_norm:
        found = [sorted(each, key=lambda one: one.score_per_label, reverse=True)[: settings.nbest] for each in found]
    return [found[i] for i in order.argsort().tolist()]


def _hypothesis(tokens: list[int], frames: list[int], score: float, token_reward: float) -> Hypothesis:
    """Return the hypothesis of a path whose `score` includes the rewards."""
    return Hypothesis(tokens, frames, score - token_reward * len(tokens))
