"""Small neural language models over tokens, in ONNX files that `steps/train_lm.py` writes.

One step takes labels (N, 1) int64 and the LSTM's states h and c (layers, N, P); it returns log P (N, V) of the next
label and the new states. The blank, label 0, stands for the start of a sentence in the input and for its end in the
output.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from residualformer.constants import BLANK
from residualformer.context.scorer import Array, Context, Scorer
from residualformer.errors import UserError
from residualformer.files import digest
from residualformer.lm.remembered import RememberedScorer
from residualformer.onnx_session import open_session, reason_of

TOKENS = "tokens"  # the key of `tokens_digest` in the file's metadata
ADVICE = "train the language model again (steps/train_lm.py)"
MOST_VALUES = 1 << 24  # of a state; a damaged file may tell any number
_STATE = ("tensor(float)", 3)
_NODES = [("tensor(int64)", 2), _STATE, _STATE, ("tensor(float)", 2), _STATE, _STATE]  # inputs and outputs: type, rank
States = tuple[Array, Array]  # h and c (layers, P) of a sequence


class NeuralLM(Context):
    """A neural language model, which all streams share.

    Args:
        pieces: the text of each label, in the order of their ids.

    Raises:
        UserError: the file does not load, is no such network, or is of other tokens.
    """

    def __init__(self, path: Path, pieces: Sequence[str], num_threads: int = 1) -> None:
        self._path = path
        self._session = open_session(path, ADVICE, num_threads)
        shape = _state_shape(self._session)
        if shape is None:
            raise UserError(f"{path} is no language model of this toolkit: {ADVICE}.")
        tokens = self._session.get_modelmeta().custom_metadata_map.get(TOKENS)
        if tokens != tokens_digest(pieces):
            raise UserError(f"{path} is of other tokens than the recognizer: train a language model with its tokens.")
        self._names, self._num_labels = [node.name for node in self._session.get_inputs()], len(pieces)
        zero = np.zeros(shape, np.float32)
        [(self.first_output, self.first_state)] = self.step([BLANK], [(zero, zero)])

    def scorer(self) -> Scorer:
        return _NeuralScorer(self)

    def describe(self) -> dict[str, Any]:
        return {"lstm": {"digest": hashlib.sha256(self._path.read_bytes()).hexdigest()[:12]}}

    def step(self, labels: Sequence[int], states: Sequence[States]) -> list[tuple[Array, States]]:
        """Return log P (V,) of the next label and the states after one more label of each sequence."""
        arrays = [np.array(labels, np.int64)[:, None], *(np.stack(part, axis=1) for part in zip(*states, strict=True))]
        try:
            logp, h, c = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as error:  # onnxruntime has an exception for each kind of fault
            raise UserError(f"{self._path} cannot be run ({reason_of(error)}): {ADVICE}.") from error
        if logp.shape != (len(labels), self._num_labels) or not h.shape == c.shape == arrays[1].shape:
            raise UserError(f"{self._path} writes values of another shape than its states and labels: {ADVICE}.")
        # Copies, because a view would keep the whole batch alive as long as one sequence lives.
        return [(logp[n].copy(), (h[:, n].copy(), c[:, n].copy())) for n in range(len(labels))]


def _state_shape(session: Any) -> tuple[int, int] | None:
    """Return (layers, P) of a network's states, None if it is no language model."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if [(node.type, len(node.shape)) for node in nodes] != _NODES:
        return None
    layers, _, hidden = nodes[1].shape
    if not isinstance(layers, int) or not isinstance(hidden, int) or min(layers, hidden) < 1:
        return None
    return (layers, hidden) if layers * hidden <= MOST_VALUES else None


def tokens_digest(pieces: Sequence[str]) -> str:
    """Return a digest of the text of labels, but for blank and unknown, which exported folders spell their own way."""
    return digest(list(pieces[2:]))


class _NeuralScorer(RememberedScorer[States]):
    """The scorer of a stream."""

    def __init__(self, model: NeuralLM) -> None:
        super().__init__(model.first_output, model.first_state)
        self._model = model

    def extend(self, labels: Sequence[int], states: Sequence[States]) -> list[tuple[Array, States]]:
        return self._model.step(labels, states)

    def scores(self, states: Array) -> Array:
        scores = self.outputs(states)
        scores[:, BLANK] = 0
        return scores

    def final(self, states: Array) -> Array:
        return self.outputs(states)[:, BLANK]
