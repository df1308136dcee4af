"""Language models beside a model without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Array, Context, training_order
from residualformer.lm.fusion import fusion
from residualformer.lm.internal import InternalLM
from residualformer.runtime.model import State, StreamingModel


def language_model(model: StreamingModel, settings: DecodeConfig) -> Context | None:
    """Return the context of the language model that `settings` name, if any; see `fusion`."""
    pieces = training_order(model.pieces, model.blank)
    return fusion(settings, pieces, lambda: internal_lm(model, model.blank, len(pieces)))


def internal_lm(model: StreamingModel, blank: int, vocab_size: int) -> InternalLM[State]:
    """Return the internal language model of a transducer whose blank, 0 or the last label, is `blank`."""

    def step(labels: Sequence[int], states: Sequence[State]) -> tuple[Array, list[State]]:
        found = model.predict([(label + blank) % vocab_size for label in labels], states)
        outputs = np.stack([output for output, _ in found])
        return np.roll(model.join(np.zeros_like(outputs), outputs), -blank, axis=1), [state for _, state in found]

    return InternalLM(step, model.predictor_state())
