"""The back-ends of the transducer losses: this package (`torch`), k2, and torchaudio (exact loss only).

Beside k2's functions a back-end has three that start from the inputs of the joiner: `simple_joiner_loss`,
`pruned_joiner_loss` and `exact_joiner_loss`. This package's never keep the logits; those of k2 and torchaudio compute
the logits and call the function that takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from residualformer.errors import UserError, closest
from residualformer.kernels.precision import full_precision
from residualformer.loss.arcs import REDUCTIONS, Loss
from residualformer.loss.exact import rnnt_loss
from residualformer.loss.fused_joiner import exact_joiner_loss, pruned_joiner_loss
from residualformer.loss.fused_simple import simple_joiner_loss
from residualformer.loss.pruning import do_rnnt_pruning, get_rnnt_prune_ranges, rnnt_loss_pruned
from residualformer.loss.recursion import checked_boundary
from residualformer.loss.simple import rnnt_loss_simple, rnnt_loss_smoothed
from residualformer.optional import describe, optional

LOSSES_OF_LOGITS = "rnnt_loss", "rnnt_loss_simple", "rnnt_loss_smoothed", "rnnt_loss_pruned"


@dataclass(frozen=True)
class Backend:
    """The functions of one back-end, by default ours, with k2's arguments; one that it lacks raises UserError."""

    name: str
    rnnt_loss: Callable[..., Tensor] = rnnt_loss
    # With return_grad this and the other simple losses return (loss, (px_grad, py_grad)).
    rnnt_loss_simple: Callable[..., Any] = rnnt_loss_simple
    rnnt_loss_smoothed: Callable[..., Any] = rnnt_loss_smoothed
    rnnt_loss_pruned: Callable[..., Tensor] = rnnt_loss_pruned
    simple_joiner_loss: Callable[..., Any] = simple_joiner_loss
    pruned_joiner_loss: Callable[..., Tensor] = pruned_joiner_loss
    exact_joiner_loss: Callable[..., Tensor] = exact_joiner_loss
    # Ours with every back-end: k2's ranges are the same numbers, but refuse a batch of empty transcripts and print.
    get_rnnt_prune_ranges: Callable[[Tensor, Tensor, Tensor | None, int], Tensor] = get_rnnt_prune_ranges
    do_rnnt_pruning: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = do_rnnt_pruning

    @classmethod
    def from_losses_of_logits(cls, name: str, losses: Mapping[str, Callable[..., Any]]) -> Backend:
        """Return a back-end of some of LOSSES_OF_LOGITS, by name, that starts from the joiner's logits."""

        def missing(loss: str, *args: Any, **kwargs: Any) -> Any:
            raise UserError(
                f"loss back-end '{name}' has no {loss}, only {', '.join(losses)}; choose loss.backend torch or k2"
            )

        found = {loss: losses.get(loss) or partial(missing, loss) for loss in LOSSES_OF_LOGITS}
        return cls(
            name,
            **found,
            simple_joiner_loss=partial(_simple_joiner_loss, found["rnnt_loss_smoothed"]),
            pruned_joiner_loss=partial(_pruned_joiner_loss, found["rnnt_loss_pruned"]),
            exact_joiner_loss=partial(_exact_joiner_loss, found["rnnt_loss"]),
        )


def _simple_joiner_loss(
    smoothed_loss: Callable[..., Loss],
    encoded: Tensor,
    predicted: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    predictor_weight: Tensor,
    predictor_bias: Tensor | None,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    **options: Any,
) -> Loss:
    lm = F.linear(predicted, predictor_weight, predictor_bias)
    am = F.linear(encoded, encoder_weight, encoder_bias)
    options = {"lm_only_scale": 0.0, "am_only_scale": 0.0} | options
    return smoothed_loss(lm, am, symbols, termination_symbol, boundary=boundary, **options)


def _pruned_joiner_loss(
    pruned_loss: Callable[..., Tensor],
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    symbols: Tensor,
    ranges: Tensor,
    *args: Any,
    **options: Any,
) -> Tensor:
    am, lm = do_rnnt_pruning(am, lm, ranges)
    return pruned_loss(F.linear(torch.tanh(am + lm), weight, bias), symbols, ranges, *args, **options)


def _exact_joiner_loss(
    exact_loss: Callable[..., Tensor],
    am: Tensor,
    lm: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *args: Any,
    **options: Any,
) -> Tensor:
    logits = F.linear(torch.tanh(am.unsqueeze(2) + lm.unsqueeze(1)), weight, bias)
    return exact_loss(logits, *args, **options)


def _k2() -> Backend:
    k2 = optional("k2")
    return Backend.from_losses_of_logits("k2", {loss: full_precision(getattr(k2, loss)) for loss in LOSSES_OF_LOGITS})


def _torchaudio() -> Backend:
    functional = optional("torchaudio").functional
    if not hasattr(functional, "rnnt_loss"):
        raise UserError("this torchaudio has no functional.rnnt_loss; choose loss.backend torch or another release")

    @full_precision
    def exact(
        logits: Tensor,
        symbols: Tensor,
        termination_symbol: int,
        boundary: Tensor | None = None,
        rnnt_type: str = "regular",
        delay_penalty: float = 0.0,
        reduction: str | None = "mean",
    ) -> Tensor:
        """Return torchaudio's exact loss, given k2's arguments: regular type, boundaries from 0, no delay penalty."""
        B, T, S1, _ = logits.shape
        boundary = checked_boundary(boundary, B, S1 - 1, T, logits.device)
        if rnnt_type != "regular" or delay_penalty != 0 or boundary[:, :2].any():
            raise ValueError("torchaudio's loss knows only rnnt_type regular, delay_penalty 0 and boundaries from 0")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
        lengths = boundary[:, 2:].int()
        return functional.rnnt_loss(
            logits.contiguous(),
            symbols.int().contiguous(),
            logit_lengths=lengths[:, 1].contiguous(),
            target_lengths=lengths[:, 0].contiguous(),
            blank=termination_symbol,
            reduction=reduction,
        )

    return Backend.from_losses_of_logits("torchaudio", {"rnnt_loss": exact})


BACKENDS: dict[str, Callable[[], Backend]] = {"torch": partial(Backend, "torch"), "k2": _k2, "torchaudio": _torchaudio}


def get_backend(name: str = "auto") -> Backend:
    """Return the back-end `name`; `auto` is this package's own.

    Raises UserError if the name is unknown or its package is missing; the message lists what is installed and how to
    get the rest.
    """
    name = "torch" if name == "auto" else name
    if name not in BACKENDS:
        raise UserError(
            f"unknown loss back-end '{name}'; it must be auto, {', '.join(BACKENDS)}.{closest(name, BACKENDS)}"
            f"\n{backend_table()}"
        )
    try:
        return BACKENDS[name]()
    except UserError as error:
        raise UserError(f"loss back-end '{name}' cannot be used: {error}\n{backend_table()}") from error


def backend_table() -> str:
    """Return a table for people: the back-ends that are installed, and how to get the others."""
    return "loss back-ends:\n  torch: always there\n" + describe([name for name in BACKENDS if name != "torch"])
