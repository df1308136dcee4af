"""The transducer loss of the references: a finer measure of a model than the error rate of its hypotheses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from residualformer.loss import get_backend
from residualformer.loss.objective import exact_loss, lattice_boundary
from residualformer.nn.transducer import Transducer

MAX_NODES = 2**24  # frames times label positions, computed together; ten minutes of speech alone have as many


@torch.no_grad()
def reference_nats(
    model: Transducer, encoded: Tensor, lengths: Tensor, references: Sequence[Sequence[int]]
) -> list[float | None]:
    """Return -log P(reference), in nats, of each utterance: the exact loss of the model's joiner, over all alignments.

    Args:
        encoded: (N, T, D) encoder frames, of which `lengths` (N,) are real.
        references: the N label sequences, without blanks.

    Returns:
        A number per utterance, summed over its labels; None if its lattice has more than `MAX_NODES` nodes.
    """
    N, frames = len(references), int(lengths.max())
    if N * frames * (max(map(len, references)) + 1) > MAX_NODES:
        if N == 1:
            return [None]
        parts = slice(None, N // 2), slice(N // 2, None)
        return [x for part in parts for x in reference_nats(model, encoded[part], lengths[part], references[part])]
    encoded = encoded[:, :frames]
    tokens = pad_sequence([torch.tensor(labels, dtype=torch.int64) for labels in references], batch_first=True)
    tokens = tokens.to(encoded.device)
    boundary = lattice_boundary(torch.tensor([len(labels) for labels in references]), lengths.to(encoded.device))
    predicted, backend = model.predictor(tokens), get_backend("torch")
    return exact_loss(model.joiner, encoded, predicted, tokens, boundary, backend, reduction="none").tolist()
