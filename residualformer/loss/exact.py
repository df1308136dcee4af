"""The exact transducer loss of a full joiner output: the oracle of the pruned loss.

Graves, "Sequence Transduction with Recurrent Neural Networks", 2012; names, arguments and conventions as in k2.
Arguments that are not described here: see the top of `simple.py`.
"""

from __future__ import annotations

from torch import Tensor

from residualformer.kernels.precision import full_precision
from residualformer.loss.arcs import check_arguments, finish_arcs, label_and_blank, loss_of_arcs


@full_precision
def get_rnnt_logprobs_joint(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the arcs of softmax(logits (B, T, S+1, C)); shapes as in `get_rnnt_logprobs`."""
    if logits.ndim != 4 or logits.shape[2] == 0:
        raise ValueError(f"logits must have shape (B, T, S+1, C), got {tuple(logits.shape)}")
    B, T, S1, C = logits.shape
    check_arguments(symbols, B, S1 - 1, C, termination_symbol, rnnt_type)
    labels = symbols.new_full((B, T, S1), termination_symbol)  # any class will do: no label leaves position S
    labels[:, :, :-1] = symbols[:, None]
    px, py = label_and_blank(logits, labels, termination_symbol)
    return finish_arcs(px[:, :, :-1].transpose(1, 2), py.transpose(1, 2), boundary, rnnt_type)


@full_precision
def rnnt_loss(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
) -> Tensor:
    """Return the exact transducer loss of unnormalized logits (B, T, S+1, C)."""
    px, py = get_rnnt_logprobs_joint(logits, symbols, termination_symbol, rnnt_type, boundary)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction)
