"""Who computes the transducer losses: this package (`torch`), k2, or torchaudio (exact loss only).

Beside k2's functions a back-end has three that start from what the joiner is made of: `simple_joiner_loss`,
`pruned_joiner_loss` and `exact_joiner_loss`. This package's never hold the logits; with k2 and torchaudio they make
them and call the function that takes them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from residualformer.errors import UserError, closest
from residualformer.loss import exact, fused_joiner, fused_simple, pruning, rnnt
from residualformer.loss.common import REDUCTIONS, full_precision
from residualformer.loss.recursion import checked_boundary
from residualformer.optional import describe, optional


class Backend:
    """Functions of one back-end as attributes, with k2's arguments; UserError for one that it lacks."""

    def __init__(self, name: str, functions: dict[str, Callable]):
        self.name = name
        self._functions = functions

    def __getattr__(self, function: str) -> Callable:
        if function not in (*_LOSSES, *_PLAIN, *_OF_JOINERS):
            raise AttributeError(function)
        if function in _OF_JOINERS and function not in self._functions:
            return _OF_JOINERS[function](self)
        if function not in self._functions:
            raise UserError(
                f"loss back-end '{self.name}' has no {function}, only {', '.join(self._functions)}; "
                "choose loss.backend torch or k2"
            )
        return self._functions[function]


_LOSSES = ("rnnt_loss", "rnnt_loss_simple", "rnnt_loss_smoothed", "rnnt_loss_pruned")
_PLAIN = ("get_rnnt_prune_ranges", "do_rnnt_pruning")  # plain PyTorch with every back-end


def _simple_joiner(backend: Backend) -> Callable:
    def simple_joiner_loss(
        encoded: Tensor, predicted: Tensor, encoder_weight: Tensor, encoder_bias: Tensor | None,
        predictor_weight: Tensor, predictor_bias: Tensor | None, symbols: Tensor, termination_symbol: int,
        boundary: Tensor | None = None, **options,
    ) -> rnnt.Loss:  # fmt: skip
        lm = F.linear(predicted, predictor_weight, predictor_bias)
        am = F.linear(encoded, encoder_weight, encoder_bias)
        smoothed = {"lm_only_scale": 0.0, "am_only_scale": 0.0} | options
        return backend.rnnt_loss_smoothed(lm, am, symbols, termination_symbol, boundary=boundary, **smoothed)

    return simple_joiner_loss


def _pruned_joiner(backend: Backend) -> Callable:
    def pruned_joiner_loss(
        am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor | None, symbols: Tensor, ranges: Tensor, *args, **options
    ) -> Tensor:
        am, lm = backend.do_rnnt_pruning(am, lm, ranges)
        logits = F.linear(torch.tanh(am + lm), weight, bias)
        return backend.rnnt_loss_pruned(logits, symbols, ranges, *args, **options)

    return pruned_joiner_loss


def _exact_joiner(backend: Backend) -> Callable:
    def exact_joiner_loss(
        am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor | None, symbols: Tensor, *args, **options
    ) -> Tensor:
        logits = F.linear(torch.tanh(am.unsqueeze(2) + lm.unsqueeze(1)), weight, bias)
        return backend.rnnt_loss(logits, symbols, *args, **options)

    return exact_joiner_loss


_OF_JOINERS = {
    "simple_joiner_loss": _simple_joiner,
    "pruned_joiner_loss": _pruned_joiner,
    "exact_joiner_loss": _exact_joiner,
}


def _torch() -> dict[str, Callable]:
    return {
        "rnnt_loss": exact.rnnt_loss,
        "rnnt_loss_simple": rnnt.rnnt_loss_simple,
        "rnnt_loss_smoothed": rnnt.rnnt_loss_smoothed,
        "rnnt_loss_pruned": pruning.rnnt_loss_pruned,
        "get_rnnt_prune_ranges": pruning.get_rnnt_prune_ranges,
        "do_rnnt_pruning": pruning.do_rnnt_pruning,
        "simple_joiner_loss": fused_simple.simple_joiner_loss,
        "pruned_joiner_loss": fused_joiner.pruned_joiner_loss,
        "exact_joiner_loss": fused_joiner.exact_joiner_loss,
    }


def _k2() -> dict[str, Callable]:
    # k2's own ranges refuse a batch of empty transcripts and print warnings: ours are the same numbers.
    k2 = optional("k2")
    functions = {name: full_precision(getattr(k2, name)) for name in _LOSSES}
    return functions | {name: getattr(pruning, name) for name in _PLAIN}


def _torchaudio() -> dict[str, Callable]:
    functional = optional("torchaudio").functional
    if not hasattr(functional, "rnnt_loss"):
        raise UserError("this torchaudio has no functional.rnnt_loss; choose loss.backend torch or another release")

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
        """k2's arguments on torchaudio's exact loss: regular type, boundaries from 0, no delay penalty."""
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

    return {"rnnt_loss": rnnt_loss}


BACKENDS = {"torch": _torch, "k2": _k2, "torchaudio": _torchaudio}


def get_backend(name: str = "auto") -> Backend:
    """The back-end `name`; `auto` is this package's own.

    Raises UserError if the name is unknown or its package is missing: the message lists what is installed and how to
    get the rest.
    """
    name = "torch" if name == "auto" else name
    if name not in BACKENDS:
        raise UserError(
            f"unknown loss back-end '{name}'; it must be auto, {', '.join(BACKENDS)}.{closest(name, BACKENDS)}"
            f"\n{backend_table()}"
        )
    try:
        return Backend(name, BACKENDS[name]())
    except UserError as error:
        raise UserError(f"loss back-end '{name}' cannot be used: {error}\n{backend_table()}") from error


def backend_table() -> str:
    """Which back-ends are installed and how to get the others, for people."""
    return "loss back-ends:\n  torch: always there\n" + describe([name for name in BACKENDS if name != "torch"])
