"""Who computes the transducer losses: this package (`torch`), k2, or torchaudio (exact loss only)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from residualformer.errors import UserError, closest
from residualformer.loss import exact, pruning, rnnt
from residualformer.loss.common import REDUCTIONS, full_precision
from residualformer.loss.recursion import checked_boundary
from residualformer.optional import describe, is_installed, optional


class Backend:
    """Functions of one back-end as attributes, with k2's arguments; UserError for one that it lacks."""

    def __init__(self, name: str, functions: dict[str, Callable]):
        self.name = name
        self._functions = functions

    def __getattr__(self, function: str) -> Callable:
        if function.startswith("__") or function not in _LOSSES + _PLAIN:
            raise AttributeError(function)
        if function not in self._functions:
            raise UserError(
                f"loss back-end '{self.name}' has no {function}, only {', '.join(self._functions)}; "
                "choose loss.backend torch or k2"
            )
        return self._functions[function]


_LOSSES = ("rnnt_loss", "rnnt_loss_simple", "rnnt_loss_smoothed", "rnnt_loss_pruned")
_PLAIN = ("get_rnnt_prune_ranges", "do_rnnt_pruning")  # plain PyTorch with every back-end


def _torch() -> dict[str, Callable]:
    return {
        "rnnt_loss": exact.rnnt_loss,
        "rnnt_loss_simple": rnnt.rnnt_loss_simple,
        "rnnt_loss_smoothed": rnnt.rnnt_loss_smoothed,
        "rnnt_loss_pruned": pruning.rnnt_loss_pruned,
        "get_rnnt_prune_ranges": pruning.get_rnnt_prune_ranges,
        "do_rnnt_pruning": pruning.do_rnnt_pruning,
    }


def _k2() -> dict[str, Callable]:
    # k2's own ranges refuse a batch of empty transcripts and print warnings: ours are the same numbers.
    k2 = optional("k2")
    return _torch() | {name: full_precision(getattr(k2, name)) for name in _LOSSES}


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
    """The back-end `name`; `auto` is k2 where it imports, else torch.

    Raises UserError if the name is unknown or its package is missing: the message lists what is installed and how to
    get the rest.
    """
    if name == "auto":
        try:
            return Backend("k2", _k2()) if is_installed("k2") else Backend("torch", _torch())
        except UserError:  # installed, but for another torch
            return Backend("torch", _torch())
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
