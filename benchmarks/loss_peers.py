"""The problem that `transducer_loss.py` measures, and the contenders: this package and its peers.

Pruned contenders: linear simple joiner and its smoothed loss, ranges, tanh joiner and its pruned loss. Contenders of
the full lattice: tanh joiner and exact loss. All start from the same tensors and compute the gradients of all they use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DIM = 512  # E, P and D
PRUNE_RANGE, BLANK, SIMPLE_SCALE = 5, 0, 0.5
SCALES = {"lm_only_scale": 0.25, "am_only_scale": 0.0}


class Size(NamedTuple):
    """N utterances, T frames, S labels, V classes."""

    N: int
    T: int
    S: int
    V: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    def logits_mb(self) -> float:
        """Return the size of the full lattice's logits in float32."""
        return self.N * self.T * (self.S + 1) * self.V * 4 / 2**20


WARM_UP = Size(2, 12, 4, 64)


@dataclass(frozen=True)
class Problem:
    """Inputs and weights of one step; letters as in `residualformer/loss`, E, P and D are `DIM`."""

    encoded: Tensor  # (N, T, E)
    predicted: Tensor  # (N, S+1, P)
    simple: tuple[Tensor, Tensor, Tensor, Tensor]  # (V, E), (V,), (V, P), (V,): the simple joiner
    am: Tensor  # (N, T, D), the encoder's side of the tanh joiner, projected
    lm: Tensor  # (N, S+1, D)
    weight: Tensor  # (V, D)
    bias: Tensor  # (V,)
    symbols: Tensor  # (N, S)
    boundary: Tensor  # (N, 4)

    def leaves(self) -> tuple[Tensor, ...]:
        return self.am, self.lm, self.weight, self.bias, self.encoded, self.predicted, *self.simple

    @classmethod
    def random(cls, size: Size, ragged: bool, spread: float, device: str) -> Problem:
        """Return the same problem for every contender.

        Args:
            ragged: utterances have from half of the frames and labels to all of them.
            spread: scale of the weights and, approximately, the standard deviation of logits.
        """
        N, T, S, V = size
        generator = torch.Generator().manual_seed(0)

        def leaf(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, generator=generator)).to(device).requires_grad_()

        def layer() -> tuple[Tensor, Tensor]:
            return leaf(V, DIM, scale=spread * DIM**-0.5), leaf(V, scale=0.1 * spread)

        boundary = torch.tensor([0, 0, S, T]).repeat(N, 1)
        if ragged:
            share = 1 - torch.rand(N, 1, generator=generator) / 2
            share[0] = 1.0
            boundary = (boundary * share).long()
        symbols = torch.randint(1, V, (N, S), generator=generator)
        return cls(
            leaf(N, T, DIM), leaf(N, S + 1, DIM), layer() + layer(), leaf(N, T, DIM), leaf(N, S + 1, DIM), *layer(),
            symbols.to(device), boundary.to(device),
        )  # fmt: skip

    def flops(self) -> float:
        """Return the FLOPs of the unavoidable products of the pruned loss, forward and twice backward, without padding.

        Tanh joiner D -> V at the kept nodes, simple joiner E -> V and P -> V, and the normalizer of its logits.
        """
        S, T = (self.boundary[:, column].double() for column in (2, 3))
        kept = T * (S + 1).clamp(max=PRUNE_RANGE)
        multiplications = (kept + T + S + 1) * DIM + T * (S + 1)
        return 3 * 2 * len(self.weight) * float(multiplications.sum())

    def share_with_gradient(self) -> float:
        """Return the fraction of the kept nodes whose gradient exceeds the rounding error of the largest."""
        shares = [self._share_with_gradient(slice(n, n + 1)) for n in range(len(self.am))]
        return sum(shares) / len(shares)

    def _share_with_gradient(self, n: slice) -> float:
        from residualformer import loss

        common = {"symbols": self.symbols[n], "termination_symbol": BLANK, "boundary": self.boundary[n]}
        with torch.no_grad():
            am, lm = F.linear(self.encoded[n], *self.simple[:2]), F.linear(self.predicted[n], *self.simple[2:])
            occupation = loss.rnnt_loss_smoothed(lm, am, **SCALES, return_grad=True, **common)[1]
            ranges = loss.get_rnnt_prune_ranges(*occupation, self.boundary[n], PRUNE_RANGE)
            am, lm = loss.do_rnnt_pruning(self.am[n], self.lm[n], ranges)
            logits = F.linear(torch.tanh(am + lm), self.weight, self.bias)
        loss.rnnt_loss_pruned(logits.requires_grad_(), ranges=ranges, **common).backward()
        largest = logits.grad.abs().amax(-1)
        return (largest > torch.finfo(largest.dtype).eps * largest.max()).float().mean().item()


Loss = Callable[[Problem], Tensor]


class Contender(NamedTuple):
    """A way to compute the loss; `load` imports what it needs and raises if that is not installed."""

    load: Callable[[], Loss]
    lattice: str  # `pruned` or `full`: losses of one kind are the same number
    bf16: bool = False  # under autocast


def ours() -> Loss:
    """Return the fused losses of this package."""
    from residualformer.loss import get_rnnt_prune_ranges
    from residualformer.loss.fused_joiner import pruned_joiner_loss
    from residualformer.loss.fused_simple import simple_joiner_loss

    def loss(p: Problem) -> Tensor:
        simple, occupation = simple_joiner_loss(
            p.encoded, p.predicted, *p.simple, p.symbols, BLANK, p.boundary, **SCALES, return_grad=True
        )
        ranges = get_rnnt_prune_ranges(*occupation, p.boundary, PRUNE_RANGE)
        pruned = pruned_joiner_loss(p.am, p.lm, p.weight, p.bias, p.symbols, ranges, BLANK, p.boundary)
        return pruned + SIMPLE_SCALE * simple

    return loss


def unfused(name: str) -> Loss:
    """Return the usual computation with a library of k2's functions: logits of all kept nodes, in float32."""
    library = importlib.import_module(name)

    def loss(p: Problem) -> Tensor:
        am, lm = F.linear(p.encoded, *p.simple[:2]), F.linear(p.predicted, *p.simple[2:])
        common = {"symbols": p.symbols, "termination_symbol": BLANK, "boundary": p.boundary, "reduction": "mean"}
        with torch.autocast(am.device.type, enabled=False):
            simple, occupation = library.rnnt_loss_smoothed(
                lm=lm.float(), am=am.float(), **SCALES, return_grad=True, **common
            )
            ranges = library.get_rnnt_prune_ranges(*occupation, p.boundary, PRUNE_RANGE)
        am, lm = library.do_rnnt_pruning(am=p.am, lm=p.lm, ranges=ranges)
        logits = F.linear(torch.tanh(am + lm), p.weight, p.bias)
        with torch.autocast(logits.device.type, enabled=False):
            pruned = library.rnnt_loss_pruned(logits=logits.float(), ranges=ranges, **common)
        return pruned + SIMPLE_SCALE * simple

    return loss


def plain_pytorch(load: Callable[[], Loss]) -> Loss:
    """Return a loss of this package in PyTorch alone, recursion included."""
    from residualformer.loss.recursion import recursion_engine

    loss = load()

    def in_pytorch(p: Problem) -> Tensor:
        with recursion_engine("plain"):
            return loss(p)

    return in_pytorch


def ours_exact() -> Loss:
    """Return the fused loss of the full lattice."""
    from residualformer.loss.fused_joiner import exact_joiner_loss

    return lambda p: exact_joiner_loss(p.am, p.lm, p.weight, p.bias, p.symbols, BLANK, p.boundary)


def full_lattice(load: Callable[[], Callable[[Tensor, Problem], Tensor]]) -> Loss:
    """Return an exact loss of the logits of all nodes."""
    of_logits = load()

    def loss(p: Problem) -> Tensor:
        logits = F.linear(torch.tanh(p.am[:, :, None] + p.lm[:, None]), p.weight, p.bias)
        with torch.autocast(logits.device.type, enabled=False):
            return of_logits(logits.float(), p)

    return loss


def k2_style(backend: str) -> Callable[[Tensor, Problem], Tensor]:
    from residualformer.loss import get_backend

    function = get_backend(backend).rnnt_loss
    return lambda logits, p: function(logits, p.symbols, BLANK, p.boundary)


def warprnnt() -> Callable[[Tensor, Problem], Tensor]:
    module: ModuleType = importlib.import_module("warprnnt_numba.rnnt_loss.rnnt_pytorch")

    def loss(logits: Tensor, p: Problem) -> Tensor:
        lengths = p.boundary[:, 2:].int()
        labels, frames = lengths[:, 0].contiguous(), lengths[:, 1].contiguous()
        return module.rnnt_loss(logits, p.symbols.int(), frames, labels, BLANK, "mean").squeeze()

    return loss


CONTENDERS: dict[str, Contender] = {
    "ours": Contender(ours, "pruned"),
    "pytorch": Contender(partial(plain_pytorch, partial(unfused, "residualformer.loss")), "pruned"),
    "fast_rnnt": Contender(partial(unfused, "fast_rnnt"), "pruned"),
    "k2": Contender(partial(unfused, "k2"), "pruned"),
    "ours-exact": Contender(ours_exact, "full"),
    "pytorch-exact": Contender(partial(plain_pytorch, partial(full_lattice, partial(k2_style, "torch"))), "full"),
    "warprnnt-numba": Contender(partial(full_lattice, warprnnt), "full"),
    "torchaudio": Contender(partial(full_lattice, partial(k2_style, "torchaudio")), "full"),
}
CONTENDERS |= {f"{name}-bf16": contender._replace(bf16=True) for name, contender in CONTENDERS.items()}
