"""Greedy search over a transducer lattice: the best label or blank at every step, along a single alignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.constants import BLANK
from residualformer.context.pauses import separating
from residualformer.context.scorer import Batch, Scorer
from residualformer.hypothesis import Hypothesis, pause_frames, separated
from residualformer.nn.transducer import Transducer


class GreedySearch:
    """A greedy search for N utterances at once, fed with the encoder's output in pieces of any length.

    Each utterance has its own position in time, so that one that writes a label does not hold up the others:
    a batch needs max_n(T_n + U_n) evaluations of the joiner instead of one per frame and label.

    A label may be less likely than blank by `settings.token_reward`, and by what a scorer adds for it, and still be
    written; after `settings.max_symbols` labels a frame is forced to write blank. After `settings.restart_s` seconds
    without a label the predictor starts afresh.

    Args:
        model: the transducer, in eval mode. The search runs on its device.
        batch_size: N.
        scorers: one for each utterance, or none.
    """

    def __init__(
        self, model: Transducer, batch_size: int, settings: DecodeConfig, scorers: Sequence[Scorer] = ()
    ) -> None:
        self.model, self.settings = model, settings
        device = next(model.parameters()).device
        start = torch.full((batch_size,), BLANK, device=device)
        out, self.state = model.predictor.step(start, model.predictor.init_state(batch_size))
        self.predicted = model.joiner.project_predictor(out)  # (N, J)
        self.pause = pause_frames(settings.restart_s, model.encoder.stride) if settings.restart_s else 0
        self.first = self.predicted[:1].clone(), tuple(part[:1].clone() for part in self.state)
        self.last = torch.full((batch_size,), -1, device=device)  # frame of the last label since a restart, or -1
        self.tokens: list[list[int]] = [[] for _ in range(batch_size)]
        self.frames: list[list[int]] = [[] for _ in range(batch_size)]
        self.scores = torch.zeros(batch_size, dtype=torch.float64, device=device)
        self.frames_done = torch.zeros(batch_size, dtype=torch.int64, device=device)
        separator = model.separator if self.pause else None
        self.scorers = Batch([separating(each, separator, BLANK) for each in scorers]) if scorers else None
        self.states = self.scorers.start() if self.scorers else np.zeros(batch_size, np.int64)
        self.context = np.zeros(batch_size)

    @torch.no_grad()
    def feed(self, encoded: Tensor, lengths: Tensor) -> None:
        """Continue with the next frames `encoded` (N, T, D), of which `lengths` (N,) int64 are valid."""
        settings = self.settings
        encoded = self.model.joiner.project_encoder(encoded)  # (N, T, J)
        position = torch.zeros_like(lengths)  # the frame of this piece that each utterance has reached
        written = torch.zeros_like(lengths)  # labels written at that frame
        while (active := (position < lengths).nonzero().squeeze(1)).numel():
            if self.pause:
                self._restart(active, (self.frames_done + position)[active])
            logits = self.model.joiner.output(encoded[active, position[active]] + self.predicted[active])  # (M, V)
            logits[:, BLANK] -= settings.blank_penalty
            logp = logits.log_softmax(-1)
            added = self._added(active)
            best, labels = (logp if added is None else logp + added)[:, 1:].max(-1)
            stays = (best + settings.token_reward <= logp[:, BLANK]) | (written[active] >= settings.max_symbols)
            labels = (labels + 1).masked_fill(stays, BLANK)
            self.scores[active] += logp.gather(1, labels[:, None]).squeeze(1).double()
            blank = labels == BLANK
            position[active[blank]] += 1
            written[active[blank]] = 0
            if not blank.all():
                writers, labels = active[~blank], labels[~blank]
                written[writers] += 1
                if self.scorers and added is not None:
                    which, chosen = writers.cpu().numpy(), labels.cpu().numpy()
                    self.context[which] += added[~blank, labels].cpu().numpy()
                    self.states[which] = self.scorers.advance(which, self.states[which], chosen)
                self._write(writers, labels, (self.frames_done + position)[writers])
        self.frames_done += lengths
        if self.scorers:
            self.scorers.keep(list(self.states[:, None]))

    def _restart(self, active: Tensor, frames: Tensor) -> None:
        """Start the predictor afresh for the utterances of `active` (M,), at `frames` (M,), whose pause is over."""
        last = self.last[active]
        due = active[(last >= 0) & (frames - last > self.pause)]
        predicted, state = self.first
        self.predicted[due] = predicted
        for part, first in zip(self.state, state, strict=True):
            part[due] = first
        self.last[due] = -1
        if self.scorers and len(due):
            which = due.cpu().numpy()
            self.states[which] = self.scorers.paused(which, self.states[which])

    def _added(self, active: Tensor) -> Tensor | None:
        """Return what the scorers add for each label (M, V) after the utterances `active` (M,)."""
        if self.scorers is None:
            return None
        streams = active.cpu().numpy()
        return torch.from_numpy(self.scorers.scores(streams, self.states[streams])).to(active.device)

    def _write(self, writers: Tensor, labels: Tensor, frames: Tensor) -> None:
        """Append `labels` (M,) to the utterances `writers` (M,) and advance their predictor."""
        for n, label, frame in zip(writers.tolist(), labels.tolist(), frames.tolist(), strict=True):
            self.tokens[n].append(label)
            self.frames[n].append(frame)
        out, state = self.model.predictor.step(labels, tuple(part[writers] for part in self.state))
        for part, new in zip(self.state, state, strict=True):
            part[writers] = new.to(part.dtype)
        self.last[writers] = frames
        self.predicted[writers] = self.model.joiner.project_predictor(out).to(self.predicted.dtype)

    def results(self) -> list[Hypothesis]:
        """Return the hypothesis of each utterance over all frames fed so far."""
        parts = zip(self.tokens, self.frames, self.scores.tolist(), self.context.tolist(), strict=True)
        found = [Hypothesis(list(tokens), list(frames), score, context) for tokens, frames, score, context in parts]
        return [separated(each, self.pause, self.model.separator) for each in found] if self.pause else found

    def ended(self) -> list[list[Hypothesis]]:
        """Return the n-best lists of utterances that have ended: one hypothesis, or none if it must not end so."""
        if self.scorers is None:
            return [[hypothesis] for hypothesis in self.results()]
        final = self.scorers.final(np.arange(len(self.states)), self.states).tolist()
        found = zip(self.results(), final, strict=True)
        return [[h._replace(context=h.context + added)] if added > -np.inf else [] for h, added in found]


@torch.no_grad()
def greedy_search(model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[Hypothesis]:
    """Search whole utterances greedily: `encoded` (N, T, D), `lengths` (N,) int64; one hypothesis for each."""
    search = GreedySearch(model, encoded.shape[0], settings)
    search.feed(encoded, lengths)
    return search.results()
