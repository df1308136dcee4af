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
A reward for each label (`token_reward`) multiplies P(k | y, t) by its exponential, and so does what a scorer adds
(`residualformer.context`): the W best are chosen with them.
Where the likeliest alignment of y wrote its last label `restart_s` ago, the predictor forgets y. Such a y is another
sequence than the same labels that the predictor remembers: the two are not merged, and both may be among the n best.
With a beam that holds everything the result is exact: the sum over all alignments of at most S labels per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.constants import BLANK
from residualformer.context.pauses import separating
from residualformer.context.scorer import Array, Batch, Scorer
from residualformer.decode.hypotheses import History, extend_keys
from residualformer.hypothesis import Hypothesis, pause_frames, separated
from residualformer.nn.transducer import Transducer


@dataclass
class Beam:
    """W sequences for each of N utterances; an unused slot has score -inf.

    scores (N, W) float64, log P with rewards and context; keys (N, W) int64, equal for equal sequences; nodes (N, W)
    int64, into `History`; rows (N, W) int64, into the predictor's outputs; last (N, W) int64, the frame of the last
    label since the predictor started, or -1; context, with scorers only: their states (N, W) int64, and the sum of what
    they added (N, W) float64.
    """

    scores: Tensor
    keys: Tensor
    nodes: Tensor
    rows: Tensor
    last: Tensor
    context: tuple[Tensor, ...] = ()

    def select(self, index: Tensor, scores: Tensor) -> Beam:
        """Return the slots `index` (N, W') with new `scores`."""
        keys, nodes, rows, last = (part.gather(1, index) for part in (self.keys, self.nodes, self.rows, self.last))
        return Beam(scores, keys, nodes, rows, last, tuple(part.gather(1, index) for part in self.context))

    def utterances(self, which: slice) -> Beam:
        """Return the beams of some of the utterances."""
        keys, nodes, rows, last = (part[which] for part in (self.keys, self.nodes, self.rows, self.last))
        return Beam(self.scores[which], keys, nodes, rows, last, tuple(part[which] for part in self.context))


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


class Ended(NamedTuple):
    """A sequence of an utterance that has ended: its score with all that was added, its node and its context."""

    score: float
    node: int
    context: float


class BeamSearch:
    """The search described above, for a batch of utterances by a model in eval mode; see `beam_search`."""

    def __init__(self, model: Transducer, settings: DecodeConfig, scorers: Sequence[Scorer] = ()) -> None:
        self.model, self.settings = model, settings
        self.history = History()
        self.pause = pause_frames(settings.restart_s, model.encoder.stride) if settings.restart_s else 0
        separator = model.separator if self.pause else None
        self.scorers = BeamScorers([separating(each, separator, BLANK) for each in scorers]) if scorers else None

    def run(self, encoded: Tensor, lengths: list[int]) -> list[list[Ended]]:
        """Search `encoded` (N, T, D), longest utterance first; return the sequences of each, best first."""
        encoded = self.model.joiner.project_encoder(encoded)
        beam, predicted = self._start(encoded.shape[0], encoded.device)
        first = predicted.select(beam.rows[:1, 0])
        finished: list[list[Ended]] = []
        for t in range(max(lengths, default=0) + 1):
            running = sum(length > t for length in lengths)
            if running < beam.scores.shape[0]:
                finished = self._end(beam.utterances(slice(running, None)), running) + finished
                beam = beam.utterances(slice(running))
            if running:
                if self.pause:
                    beam, predicted = self._restart(t, beam, predicted, first)
                beam, predicted = self._frame(encoded[:running, t], t, beam, predicted)
        return finished

    def _end(self, beam: Beam, first: int) -> list[list[Ended]]:
        """Return the sequences of the utterances from the number `first` on, which have ended."""
        if self.scorers:
            beam = self.scorers.end(beam, first)
        context = beam.context[1] if beam.context else torch.zeros_like(beam.scores)
        rows = zip(beam.scores.tolist(), beam.nodes.tolist(), context.tolist(), strict=True)
        return [[Ended(*one) for one in zip(*row, strict=True) if one[0] > -torch.inf] for row in rows]

    def _start(self, num_utterances: int, device: torch.device) -> tuple[Beam, Predicted]:
        """Return the empty sequence with probability 1 for each utterance."""
        blanks = torch.full((num_utterances,), BLANK, device=device)
        predicted = self._predict(blanks, self.model.predictor.init_state(num_utterances))
        zeros = torch.zeros(num_utterances, 1, dtype=torch.int64, device=device)
        rows = torch.arange(num_utterances, device=device)[:, None]
        context = self.scorers.start(device) if self.scorers else ()
        return Beam(zeros.double(), zeros, zeros, rows, zeros - 1, context), predicted

    def _restart(self, t: int, beam: Beam, predicted: Predicted, first: Predicted) -> tuple[Beam, Predicted]:
        """Give sequences whose pause is over at time t the predictor's output before the `first` label, one row.

        One that finds its like among those that started afresh before it is merged with it.
        """
        due = beam.scores.isfinite() & (beam.last >= 0) & (t - beam.last > self.pause)
        if not due.any():
            return beam, predicted
        afresh = replace(
            beam,
            scores=beam.scores.masked_fill(~due, -torch.inf),
            keys=extend_keys(beam.keys, torch.full_like(beam.keys, BLANK)),  # which no label gives
            rows=torch.full_like(beam.rows, predicted.outputs.shape[0]),
            last=torch.full_like(beam.last, -1),
            context=self.scorers.paused(beam, due) if self.scorers else (),
        )
        others = replace(beam, scores=beam.scores.masked_fill(due, -torch.inf))
        return _add(others, afresh), Predicted.join([predicted, first])

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
        if self.scorers:
            self.scorers.keep(beam)
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
        added = self.scorers.scores(alive)[..., 1:].flatten(1) if self.scorers else None
        if added is not None:
            scores += added
        scores, index = scores.topk(min(width, scores.shape[1]), dim=1)
        if done.scores.shape[1] >= width:
            worst = done.scores.topk(width, dim=1).values[:, -1:]
            scores = scores.masked_fill(scores <= worst, -torch.inf)
        count = int(scores.isfinite().sum(1).max())  # sorted, so the living ones come first
        if count == 0:
            return None
        scores, index = scores[:, :count], index[:, :count]
        num_labels = logp.shape[2] - 1
        parent = alive.select(index // num_labels, scores)
        if added is not None:
            states, total = parent.context
            parent.context = states, total + added.gather(1, index)
        return parent, index % num_labels + 1

    def _write(self, parent: Beam, labels: Tensor, t: int, predicted: Predicted) -> tuple[Beam, Predicted]:
        """Append `labels` (N, W) to the sequences of `parent`; the predictor runs only for the living ones."""
        living = parent.scores.isfinite()
        predicted = self._predict(labels[living], predicted.select(parent.rows[living]).state)
        nodes, rows = torch.zeros_like(parent.nodes), torch.zeros_like(parent.rows)
        nodes[living] = self.history.append(parent.nodes[living], labels[living], t)
        rows[living] = torch.arange(predicted.outputs.shape[0], device=rows.device)
        context = self.scorers.advance(parent, labels) if self.scorers else ()
        last = torch.full_like(rows, t)
        return Beam(parent.scores, extend_keys(parent.keys, labels), nodes, rows, last, context), predicted

    def _predict(self, labels: Tensor, state: tuple[Tensor, ...]) -> Predicted:
        out, state = self.model.predictor.step(labels, state)
        return Predicted(self.model.joiner.project_predictor(out), state)


class BeamScorers:
    """What the scorers of N utterances say of the sequences in a `Beam`, of which the first utterances still run."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.batch = Batch(scorers)

    def start(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return `Beam.context` of the empty sequences."""
        states = torch.from_numpy(self.batch.start())[:, None].to(device)
        return states, torch.zeros_like(states, dtype=torch.float64)

    def scores(self, beam: Beam) -> Tensor:
        """Return what each label adds (N, W, V), 0 after unused slots."""
        streams, states, living = self._living(beam)
        found = torch.from_numpy(self.batch.scores(streams, states)).to(beam.scores.device)
        scores = found.new_zeros(*living.shape, found.shape[1])
        scores[living] = found
        return scores

    def advance(self, parent: Beam, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return `Beam.context` after `labels` (N, W)."""
        streams, states, living = self._living(parent)
        found = self.batch.advance(streams, states, labels[living].cpu().numpy())
        states_after = torch.zeros_like(parent.nodes)
        states_after[living] = torch.from_numpy(found).to(labels.device)
        return states_after, parent.context[1]

    def paused(self, beam: Beam, due: Tensor) -> tuple[Tensor, Tensor]:
        """Return `Beam.context` after a pause of the sequences in the slots `due` (N, W)."""
        states, streams = beam.context[0].clone(), due.nonzero()[:, 0].cpu().numpy()
        found = self.batch.paused(streams, states[due].cpu().numpy())
        states[due] = torch.from_numpy(found).to(states.device)
        return states, beam.context[1]

    def end(self, beam: Beam, first: int) -> Beam:
        """Return the beams of the utterances from the number `first` on with what their end adds, best first."""
        streams, states, living = self._living(beam)
        final = torch.zeros_like(beam.scores)
        found = torch.from_numpy(self.batch.final(streams + first, states))
        final[living] = found.to(final.device, final.dtype)
        scores, index = (beam.scores + final).sort(dim=1, descending=True, stable=True)
        beam = replace(beam, context=(beam.context[0], beam.context[1] + final))
        return beam.select(index, scores)

    def keep(self, beam: Beam) -> None:
        """Forget the states of sequences outside `beam`."""
        rows = zip(beam.context[0].cpu().numpy(), beam.scores.isfinite().cpu().numpy(), strict=True)
        self.batch.keep([states[living] for states, living in rows])

    def _living(self, beam: Beam) -> tuple[Array, Array, Tensor]:
        """Return the utterances and states (M,) of used slots, and which slots are used (N, W)."""
        living = beam.scores.isfinite()
        streams = living.nonzero()[:, 0].cpu().numpy()
        return streams, beam.context[0][living].cpu().numpy(), living


def _add(done: Beam, new: Beam) -> Beam:
    """Add the paths of `new` (N, W) to those of `done` (N, M): equal sequences are merged, their probabilities summed.

    Neither side holds a sequence twice: each round of a frame appends equally many labels to different sequences.
    A merged sequence keeps the label times of its likelier path.
    """
    used = done.scores.isfinite()[:, :, None] & new.scores.isfinite()[:, None]
    same = used & (done.keys[:, :, None] == new.keys[:, None])  # (N, M, W)
    scores, partner = new.scores[:, None].expand_as(same).masked_fill(~same, -torch.inf).max(2)  # (N, M)
    nodes = torch.where(scores > done.scores, new.nodes.gather(1, partner), done.nodes)
    last = torch.where(scores > done.scores, new.last.gather(1, partner), done.last)
    done = replace(done, scores=torch.logaddexp(done.scores, scores), nodes=nodes, last=last)
    new = replace(new, scores=new.scores.masked_fill(same.any(1), -torch.inf))
    scores, keys, nodes, rows, last = (
        torch.cat([getattr(done, name), getattr(new, name)], dim=1)
        for name in ("scores", "keys", "nodes", "rows", "last")
    )
    context = (torch.cat(pair, dim=1) for pair in zip(done.context, new.context, strict=True))
    return Beam(scores, keys, nodes, rows, last, tuple(context))


@torch.no_grad()
def beam_search(
    model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig, scorers: Sequence[Scorer] = ()
) -> list[list[Hypothesis]]:
    """Return the `nbest` likeliest label sequences of each utterance, best first; fewer where there are fewer.

    Args:
        model: the transducer, in eval mode.
        encoded: (N, T, D) the encoder's output.
        lengths: (N,) int64 valid frames.
        settings: W is `beam`, S is `max_symbols`; `length_norm` orders the list by `Hypothesis.score_per_label`.
        scorers: one for each utterance, or none. The list is empty where they let no sequence end.

    A hypothesis's `score` is its log-probability, without reward and context; its `frames` are those of its likeliest
    alignment among the merged ones.
    """
    order = lengths.argsort(descending=True, stable=True)
    search = BeamSearch(model, settings, [scorers[n] for n in order.tolist()] if scorers else ())
    most = settings.beam if settings.length_norm else settings.nbest
    kept = [each[:most] for each in search.run(encoded[order], lengths[order].tolist())]
    paths = iter(search.history.trace([one.node for each in kept for one in each]))
    found = [[_hypothesis(*next(paths), one, settings.token_reward) for one in each] for each in kept]
    if settings.length_norm:
        found = [sorted(each, key=lambda one: one.score_per_label, reverse=True)[: settings.nbest] for each in found]
    if search.pause:
        found = [[separated(one, search.pause, model.separator) for one in each] for each in found]
    return [found[i] for i in order.argsort().tolist()]


def _hypothesis(tokens: list[int], frames: list[int], ended: Ended, token_reward: float) -> Hypothesis:
    """Return the hypothesis of a path."""
    return Hypothesis(tokens, frames, ended.score - token_reward * len(tokens) - ended.context, ended.context)
