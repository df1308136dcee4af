"""Language models beside a PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Array, Context
from residualformer.lm.fusion import fusion
from residualformer.lm.internal import InternalLM
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transducer import Transducer

State = tuple[Tensor, ...]  # of the predictor, one sequence: (1, ...)


def language_model(bundle: Bundle, settings: DecodeConfig) -> Context | None:
    """Return the context of the language model that `settings` name, if any; see `fusion`."""
    return fusion(settings, bundle.tokenizer.pieces, lambda: internal_lm(bundle.model))


def internal_lm(model: Transducer) -> InternalLM[State]:
    """Return the internal language model of a transducer in eval mode."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def step(labels: Sequence[int], states: Sequence[State]) -> tuple[Array, list[State]]:
        stacked = tuple(torch.cat(part) for part in zip(*states, strict=True))
        out, new = model.predictor.step(torch.tensor(labels, device=device), stacked)
        logits = model.joiner.output(model.joiner.project_predictor(out))
        after = [tuple(part[n : n + 1].clone() for part in new) for n in range(len(labels))]
        return logits.cpu().numpy(), after

    return InternalLM(step, model.predictor.init_state(1))
