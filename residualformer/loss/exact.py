"""The exact transducer loss on a full joiner output; names, arguments and conventions as in k2.

Graves, "Sequence Transduction with Recurrent Neural Networks", 2012. It is the oracle of the pruned loss.
Arguments that are not described here: see the top of `rnnt.py`.
"""

from __future__ import annotations

from torch import Tensor

from residualformer.loss.common import check_arguments, finish_arcs, full_precision, label_and_blank, loss_of_arcs


@full_precision
def get_rnnt_logprobs_joint(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Arcs of softmax(logits (B, T, S+1, C)): px (B, S, T+1), or (B, S, T) if labels consume frames; py (B, S+1, T)."""
    if logits.ndim != 4 or logits.shape[2] == 0:
        raise ValueError(f"logits must have shape (B, T, S+1, C), got {tuple(logits.shape)}")
    B, T, S1, C = logits.shape
    check_arguments(symbols, B, S1 - 1, C, termination_symbol, rnnt_type)
    labels = symbols.new_full((B, T, S1), termination_symbol)  # no label leaves the last position: anything will do
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
    """Exact transducer loss of logits (B, T, S+1, C), not normalised: (B,) for reduction `none`, else a scalar."""
    px, py = get_rnnt_logprobs_joint(logits, symbols, termination_symbol, rnnt_type, boundary)
    return loss_of_arcs(px, py, boundary, delay_penalty, reduction)
