"""Greedy search over a transducer lattice: the best label or blank at every step (one alignment, no merging)."""

from __future__ import annotations

import torch
from torch import Tensor

from residualformer.constants import BLANK
from residualformer.decode.hypotheses import Hypothesis


class GreedySearch:
    """Greedy search of N utterances at once, fed with the encoder's output in pieces of any length.

    Every utterance keeps its own place in time, so that one that writes a label does not hold up the others:
    a batch needs max_n(T_n + U_n) evaluations of the joiner instead of a round per frame and label.

    Args:
        model: the transducer, in eval mode.
        batch_size: N.
        max_symbols: labels that one frame may write; after so many a blank is forced.
        blank_penalty: subtracted from the blank's logit; scores are log-probabilities after that.
        token_reward: nats that a label may be less likely than the blank and still be written.
    """

    def __init__(
        self, model, batch_size: int, max_symbols: int = 5, blank_penalty: float = 0.0, token_reward: float = 0.0
    ):
        self.model, self.max_symbols = model, max_symbols
        self.blank_penalty, self.token_reward = blank_penalty, token_reward
        device = next(model.parameters()).device
        state = model.predictor.init_state(batch_size)
        out, self.state = model.predictor.step(torch.full((batch_size,), BLANK, device=device), state)
        self.predicted = model.joiner.project_predictor(out)  # (N, J)
        self.tokens: list[list[int]] = [[] for _ in range(batch_size)]
        self.frames: list[list[int]] = [[] for _ in range(batch_size)]
        self.scores = torch.zeros(batch_size, dtype=torch.float64, device=device)
        self.frames_done = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @torch.no_grad()
    def feed(self, encoded: Tensor, lengths: Tensor) -> None:
        """Go on with the next frames `encoded` (N, T, D), of which `lengths` (N,) int64 are valid."""
        encoded = self.model.joiner.project_encoder(encoded)  # (N, T, J)
        place = torch.zeros_like(lengths)  # the frame of this piece at which each utterance stands
        written = torch.zeros_like(lengths)  # labels written at that frame
        while (active := (place < lengths).nonzero().squeeze(1)).numel():
            logits = self.model.joiner.output(encoded[active, place[active]] + self.predicted[active])  # (M, V)
            logits[:, BLANK] -= self.blank_penalty
            logp = logits.log_softmax(-1)
            best, labels = logp[:, 1:].max(-1)
            stays = (best + self.token_reward <= logp[:, BLANK]) | (written[active] >= self.max_symbols)
            labels = (labels + 1).masked_fill(stays, BLANK)
            self.scores[active] += logp.gather(1, labels[:, None]).squeeze(1).double()
            blank = labels == BLANK
            place[active[blank]] += 1
            written[active[blank]] = 0
            if not blank.all():
                writers, labels = active[~blank], labels[~blank]
                written[writers] += 1
                self._write(writers, labels, (self.frames_done + place)[writers])
        self.frames_done += lengths

    def _write(self, writers: Tensor, labels: Tensor, frames: Tensor) -> None:
        """Append `labels` (M,) to the utterances `writers` (M,) and move their predictor on."""
        for n, label, frame in zip(writers.tolist(), labels.tolist(), frames.tolist(), strict=True):
            self.tokens[n].append(label)
            self.frames[n].append(frame)
        out, state = self.model.predictor.step(labels, tuple(part[writers] for part in self.state))
        for part, new in zip(self.state, state, strict=True):
            part[writers] = new.to(part.dtype)
        self.predicted[writers] = self.model.joiner.project_predictor(out).to(self.predicted.dtype)

    def results(self) -> list[Hypothesis]:
        """The hypothesis of each utterance over all frames fed so far."""
        parts = zip(self.tokens, self.frames, self.scores.tolist(), strict=True)
        return [Hypothesis(list(tokens), list(frames), score) for tokens, frames, score in parts]


def greedy_search(
    model,
    encoded: Tensor,
    lengths: Tensor,
    max_symbols: int = 5,
    blank_penalty: float = 0.0,
    token_reward: float = 0.0,
) -> list[Hypothesis]:
    """Greedy search over whole utterances: `encoded` (N, T, D), `lengths` (N,) int64; one hypothesis each."""
    with torch.no_grad():
        search = GreedySearch(model, encoded.shape[0], max_symbols, blank_penalty, token_reward)
        search.feed(encoded, lengths)
    return search.results()
