"""What a model thinks of the right answer: the transducer loss of references, a finer measure than their error rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from residualformer.loss import get_backend
from residualformer.loss.objective import exact_loss, lattice_boundary
from residualformer.nn.transducer import Transducer

LARGEST = 2**24  # nodes (frames times label positions) taken together; alone, ten minutes of speech have as many


@torch.no_grad()
def reference_nats(
    model: Transducer, encoded: Tensor, lengths: Tensor, references: Sequence[Sequence[int]]
) -> list[float | None]:
    """-log P(reference), in nats, of each utterance by the model's own joiner: the exact loss, over all alignments.

    Args:
        encoded: (N, T, D) encoder frames, of which `lengths` (N,) are real.
        references: the N label sequences, without blanks.

    Returns:
        A number for each utterance, summed over its labels; None for one whose lattice has more than `LARGEST` nodes.
    """
    N, frames = len(references), int(lengths.max())
    if N * frames * (max(map(len, references)) + 1) <= LARGEST:
        return _nats(model, encoded[:, :frames], lengths, references)
    if N == 1:
        return [None]
    parts = slice(None, N // 2), slice(N // 2, None)
    return [x for part in parts for x in reference_nats(model, encoded[part], lengths[part], references[part])]


def _nats(model: Transducer, encoded: Tensor, lengths: Tensor, references: Sequence[Sequence[int]]) -> list[float]:
    tokens = pad_sequence([torch.tensor(labels, dtype=torch.int64) for labels in references], batch_first=True)
    tokens = tokens.to(encoded.device)
    boundary = lattice_boundary(torch.tensor([len(labels) for labels in references]), lengths.to(encoded.device))
    labels = tokens, boundary, get_backend("torch")
    return exact_loss(model.joiner, encoded, model.predictor(tokens), *labels, reduction="none").tolist()
