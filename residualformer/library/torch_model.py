"""A trained model in PyTorch as the runtime's streams and searches see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residualformer.constants import BLANK
from residualformer.model.checkpoint import Bundle
from residualformer.nn.transformer import TransformerEncoder
from residualformer.runtime.model import Array, StreamingModel


class TorchModel(StreamingModel):
    """The model of `bundle`, on its device. A state is that of a batch of one, which encoder or predictor returned."""

    def __init__(self, bundle: Bundle) -> None:
        self.pieces, self.blank = bundle.tokenizer.pieces, BLANK
        self.features, self.decode = bundle.config.features, bundle.config.decode
        self.target, self.calibration = bundle.config.tokens.target, bundle.calibration
        encoder = bundle.model.encoder
        self.window, self.shift, self.stride, self.tail_s = encoder.window, encoder.shift, encoder.stride, 0.0
        self._model, self._device = bundle.model, bundle.device
        # Streams at different positions have states of different sizes, which make no batch.
        self._grows = isinstance(encoder, TransformerEncoder) and encoder.left_context is None

    def encoder_state(self) -> Any:
        return self._model.encoder.init_state(1)

    @torch.no_grad()
    def encode(self, features: Array, lengths: Array, states: Sequence[Any]) -> tuple[Array, list[Any]]:
        if self._grows and len(states) > 1:
            rows = [self.encode(features[n : n + 1], lengths[n : n + 1], states[n : n + 1]) for n in range(len(states))]
            return np.concatenate([frames for frames, _ in rows]), [state for _, (state,) in rows]
        x, sizes = (torch.from_numpy(part).to(self._device) for part in (features, lengths))
        frames, state = self._model.encoder.step(x, sizes, _join(states))
        return self._model.joiner.project_encoder(frames).cpu().numpy(), _split(state, len(states))

    def predictor_state(self) -> Any:
        return self._model.predictor.init_state(1)

    @torch.no_grad()
    def predict(self, labels: Sequence[int], states: Sequence[Any]) -> list[tuple[Array, Any]]:
        out, state = self._model.predictor.step(torch.tensor(labels, device=self._device), _join(states))
        outputs = self._model.joiner.project_predictor(out).cpu().numpy()
        return list(zip(outputs, _split(state, len(states)), strict=True))

    @torch.no_grad()
    def join(self, encoded: Array, predicted: Array) -> Array:
        joint = torch.from_numpy(encoded + predicted).to(self._device)
        return self._model.joiner.output(joint).cpu().numpy()


def _join(states: Sequence[Any]) -> Any:
    """Return the state of N streams; all tensors have N first."""
    return states[0] if len(states) == 1 else _map(lambda *parts: torch.cat(parts), *states)


def _split(state: Any, count: int) -> list[Any]:
    """Return the states of each of N streams."""
    return [state] if count == 1 else [_map(lambda part, n=n: part[n : n + 1].clone(), state) for n in range(count)]


def _map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to the tensors in the same place of states: dataclasses, lists and tuples of tensors."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return type(first)(*(_map(function, *(getattr(tree, name) for tree in trees)) for name in names))
    return type(first)(_map(function, *parts) for parts in zip(*trees, strict=True))
