"""The teacher of an arbitrator, or an oracle: a trained model whose uncertain frames are to be slow (AmNets, 5)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from residualformer.config.schema import Config, DecodeConfig
from residualformer.constants import FRAME_SHIFT_MS
from residualformer.decode.greedy import greedy_search
from residualformer.errors import UserError
from residualformer.model import checkpoint


class Teacher:
    """A trained transducer, frozen, that returns the entropy of its outputs.

    Args:
        path: a run folder or its model file.
        config: of the model with the arbitrator. Features or frames of another kind raise UserError.
    """

    def __init__(self, path: Path, config: Config) -> None:
        bundle = checkpoint.load_model(path)
        self.model, stride = bundle.model, bundle.model.encoder.stride
        if bundle.config.features != config.features or stride != config.encoder.stride:
            raise UserError(
                f"{path} cannot teach an arbitrator with frames of {FRAME_SHIFT_MS * config.encoder.stride} ms: its "
                f"own are {FRAME_SHIFT_MS * stride} ms, or its features are others; name another experiment"
            )

    def to(self, device: torch.device) -> Teacher:
        """Move the model to `device`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def entropy(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the entropy, in nats, of the output distribution at (t, u(t)) for every encoder frame t, (N, T').

        u(t) is the number of labels that greedy search has emitted before frame t, features are (N, T, F), and lengths
        (N,) count their frames.
        """
        encoded, lengths = self.model.encoder(features, lengths)
        hypotheses = greedy_search(self.model, encoded, lengths, DecodeConfig(kind="greedy"))
        longest = max(len(hypothesis.tokens) for hypothesis in hypotheses)
        tokens = torch.zeros(len(hypotheses), longest, dtype=torch.long)
        frames = torch.full((len(hypotheses), longest), encoded.size(1))  # padding comes after the last frame
        for n, hypothesis in enumerate(hypotheses):
            tokens[n, : len(hypothesis.tokens)] = torch.tensor(hypothesis.tokens, dtype=torch.long)
            frames[n, : len(hypothesis.frames)] = torch.tensor(hypothesis.frames, dtype=torch.long)
        time = torch.arange(encoded.size(1))
        u = (frames[:, None, :] < time[:, None]).sum(2).to(encoded.device)  # (N, T')
        predicted = self.model.predictor(tokens.to(encoded.device))  # (N, U + 1, P)
        states = predicted.gather(1, u.unsqueeze(2).expand(-1, -1, predicted.size(2)))  # (N, T', P)
        logp = self.model.joiner(encoded, states).float().log_softmax(2)
        return -(logp.exp() * logp).sum(2)
