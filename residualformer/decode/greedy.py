"""Greedy search over a transducer lattice: the best label or blank at every step, along a single alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.constants import BLANK
from residualformer.hypothesis import Hypothesis
from residualformer.nn.transducer import Transducer


class GreedySearch:
    """A greedy search for N utterances at once, fed with the encoder's output in pieces of any length.

    Each utterance has its own position in time, so that one that writes a label does not hold up the others:
    a batch needs max_n(T_n + U_n) evaluations of the joiner instead of one per frame and label.

    A label may be less likely than blank by `settings.token_reward` and still be written; after `settings.max_symbols`
    labels a frame is forced to write blank.

    Args:
        model: the transducer, in eval mode. The search runs on its device.
        batch_size: N.
    """

    def __init__(self, model: Transducer, batch_size: int, settings: DecodeConfig) -> None:
        self.model, self.settings = model, settings
        device = next(model.parameters()).device
        start = torch.full((batch_size,), BLANK, device=device)
        out, self.state = model.predictor.step(start, model.predictor.init_state(batch_size))
        self.predicted = model.joiner.project_predictor(out)  # (N, J)
        self.tokens: list[list[int]] = [[] for _ in range(batch_size)]
        self.frames: list[list[int]] = [[] for _ in range(batch_size)]
        self.scores = torch.zeros(batch_size, dtype=torch.float64, device=device)
        self.frames_done = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @torch.no_grad()
    def feed(self, encoded: Tensor, lengths: Tensor) -> None:
        """Continue with the next frames `encoded` (N, T, D), of which `lengths` (N,) int64 are valid."""
        settings = self.settings
        encoded = self.model.joiner.project_encoder(encoded)  # (N, T, J)
        position = torch.zeros_like(lengths)  # the frame of this piece that each utterance has reached
        written = torch.zeros_like(lengths)  # labels written at that frame
        while (active := (position < lengths).nonzero().squeeze(1)).numel():
            logits = self.model.joiner.output(encoded[active, position[active]] + self.predicted[active])  # (M, V)
            logits[:, BLANK] -= settings.blank_penalty
            logp = logits.log_softmax(-1)
            best, labels = logp[:, 1:].max(-1)
            stays = (best + settings.token_reward <= logp[:, BLANK]) | (written[active] >= settings.max_symbols)
            labels = (labels + 1).masked_fill(stays, BLANK)
            self.scores[active] += logp.gather(1, labels[:, None]).squeeze(1).double()
            blank = labels == BLANK
            position[active[blank]] += 1
            written[active[blank]] = 0
            if not blank.all():
                writers, labels = active[~blank], labels[~blank]
                written[writers] += 1
                self._write(writers, labels, (self.frames_done + position)[writers])
        self.frames_done += lengths

    def _write(self, writers: Tensor, labels: Tensor, frames: Tensor) -> None:
        """Append `labels` (M,) to the utterances `writers` (M,) and advance their predictor."""
        for n, label, frame in zip(writers.tolist(), labels.tolist(), frames.tolist(), strict=True):
            self.tokens[n].append(label)
            self.frames[n].append(frame)
        out, state = self.model.predictor.step(labels, tuple(part[writers] for part in self.state))
        for part, new in zip(self.state, state, strict=True):
            part[writers] = new.to(part.dtype)
        self.predicted[writers] = self.model.joiner.project_predictor(out).to(self.predicted.dtype)

    def results(self) -> list[Hypothesis]:
        """Return the hypothesis of each utterance over all frames fed so far."""
        parts = zip(self.tokens, self.frames, self.scores.tolist(), strict=True)
        return [Hypothesis(list(tokens), list(frames), score) for tokens, frames, score in parts]


@torch.no_grad()
def greedy_search(model: Transducer, encoded: Tensor, lengths: Tensor, settings: DecodeConfig) -> list[Hypothesis]:
    """Search whole utterances greedily: `encoded` (N, T, D), `lengths` (N,) int64; one hypothesis for each."""
    search = GreedySearch(model, encoded.shape[0], settings)
    search.feed(encoded, lengths)
    return search.results()
