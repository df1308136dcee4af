"""What an arbitrator learns before anything else: at which frames a trained model is unsure (AmNets, section 5)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from residualformer.config.schema import Config
from residualformer.decode.greedy import greedy_search
from residualformer.errors import UserError
from residualformer.model import checkpoint


class Teacher:
    """A trained transducer that is asked for the entropy of its outputs; it does not learn.

    Args:
        path: a run folder or its `model.pt`.
        config: of the model that learns from it.

    Raises:
        UserError: its features or its frames are not those of `config`.
    """

    def __init__(self, path: Path, config: Config) -> None:
        bundle = checkpoint.load_model(path)
        self.model, stride = bundle.model, bundle.model.encoder.stride
        if bundle.config.features != config.features or stride != config.encoder.stack_frames:
            raise UserError(
                f"{path} cannot teach an arbitrator with frames of {10 * config.encoder.stack_frames} ms: its own are "
                f"{10 * stride} ms, or its features are others; name another experiment in amnet.arbitrator.teacher"
            )

    def to(self, device: torch.device) -> Teacher:
        self.model.to(device)
        return self

    @torch.no_grad()
    def entropy(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Entropy, in nats, of the output distribution at (t, u(t)): features (N, T, F), lengths (N,) -> (N, T').

        u(t) is the number of labels that greedy search has written before frame t.
        """
        encoded, lengths = self.model.encoder(features, lengths)
        found = greedy_search(self.model, encoded, lengths)
        longest = max(len(each.tokens) for each in found)
        tokens = torch.zeros(len(found), longest, dtype=torch.long)
        frames = torch.full((len(found), longest), encoded.size(1))  # padding is written after the last frame
        for n, each in enumerate(found):
            tokens[n, : len(each.tokens)] = torch.tensor(each.tokens, dtype=torch.long)
            frames[n, : len(each.frames)] = torch.tensor(each.frames, dtype=torch.long)
        time = torch.arange(encoded.size(1))
        written = (frames[:, None, :] < time[:, None]).sum(2).to(encoded.device)  # u(t), (N, T')
        predicted = self.model.predictor(tokens.to(encoded.device))  # (N, U + 1, P)
        seen = predicted.gather(1, written.unsqueeze(2).expand(-1, -1, predicted.size(2)))
        logp = self.model.joiner(encoded, seen).float().log_softmax(2)
        return -(logp.exp() * logp).sum(2)
