"""The network that chooses a branch for each frame, and the ways to a decision (AmNets, section 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.amnet import ArbitratorConfig
from residualformer.kernels.recurrent import State, recurrent_layer

ARBITRATOR = "encoder.arbitrator."  # prefix of the names of its parameters in a model
Sampler = Callable[[Tensor], Tensor]  # logits (N, T, B) -> decisions (N, T, B), which sum to one over B


def one_hot(logits: Tensor) -> Tensor:
    """Decide for the most probable branch, as at run time."""
    return _decided(logits.argmax(2), logits)


def uniform_branch(logits: Tensor) -> Tensor:
    """Draw a branch for each frame with equal probabilities, whatever the logits; for pruning."""
    return _decided(torch.randint(logits.size(2), logits.shape[:2], device=logits.device), logits)


def straight_through(decisions: Tensor) -> Tensor:
    """Return one-hot decisions (N, T', B) with the gradient of the soft ones: the straight-through estimator."""
    return decisions + (one_hot(decisions) - decisions).detach()


def _decided(branch: Tensor, logits: Tensor) -> Tensor:
    return F.one_hot(branch, logits.size(2)).to(torch.float32)


@dataclass(frozen=True)
class OneBranch:
    """The same branch for all frames, whatever the logits."""

    number: int

    def __call__(self, logits: Tensor) -> Tensor:
        return _decided(torch.full(logits.shape[:2], self.number, device=logits.device), logits)


@dataclass(frozen=True)
class GumbelSoftmax:
    """softmax((log pi + g) / tau) (eq. 1), where g follows the Gumbel distribution."""

    tau: float = 1.0  # temperature, above 0; the lower, the closer to one-hot decisions
    noise: float = 1.0  # factor of g, 1 in the paper; at 0 the decisions are deterministic, as those of run time are
    hard: bool = False  # one-hot, with the gradient of the soft decisions

    def __call__(self, logits: Tensor) -> Tensor:
        # -log of an exponential variable is a Gumbel variable; log pi is the logits up to a constant, which cancels.
        noise = -torch.empty_like(logits, dtype=torch.float32).exponential_().log()
        soft = ((logits.float() + self.noise * noise) / self.tau).softmax(2)
        return straight_through(soft) if self.hard else soft


class Arbitrator(nn.Module):
    """LSTM layers with one bias per gate and a linear layer: frames (N, T, D) -> logits (N, T, B), whose softmax is pi.

    With `use_backlog` the last number of a frame x is about the work that earlier ones left. Its weights begin at zero,
    so that an arbitrator which was trained without it goes on as it was.

    Args:
        input_dim: D without the backlog, the size of x_t and, where it sees them, h_{t-1} and d_{t-1} together.
        num_branches: B.
    """

    def __init__(self, input_dim: int, num_branches: int, config: ArbitratorConfig) -> None:
        super().__init__()
        self.dim = dim = config.hidden_dim
        inputs = [input_dim] + [dim] * (config.num_layers - 1)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-(dim**-0.5), dim**-0.5))

        self.input = nn.ParameterList(uniform(4 * dim, size) for size in inputs)
        self.recurrent = nn.ParameterList(uniform(4 * dim, dim) for _ in inputs)
        self.bias = nn.ParameterList(uniform(4 * dim) for _ in inputs)
        self.out = nn.Linear(dim, num_branches)
        self.backlog = nn.Parameter(torch.zeros(4 * dim, 1)) if config.use_backlog else None

    def init_state(self, batch_size: int) -> list[State]:
        """Return (h, c) of each layer, zero, each (N, hidden_dim)."""
        zeros = self.out.weight.new_zeros(batch_size, self.dim)
        return [(zeros, zeros) for _ in self.bias]

    def forward(self, x: Tensor, state: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Return the logits (N, T, B) of x (N, T, D) and the new state; `state` defaults to `init_state`."""
        state = self.init_state(len(x)) if state is None else state
        y, new = x.transpose(0, 1), []
        for before, *weights in zip(state, self.input_weights(), self.recurrent, self.bias, strict=True):
            y, after = recurrent_layer("lstm", y, before, *weights)
            new.append(after)
        return self.out(y).transpose(0, 1), new

    def flops(self) -> float:
        """Return the multiply-accumulates per frame."""
        return float(sum(weight.numel() for weight in [*self.input_weights(), *self.recurrent, self.out.weight]))

    def input_weights(self) -> list[Tensor]:
        """Return the weights of the input of each layer, the first with that of the backlog, if it is seen."""
        first, *others = self.input
        return [first if self.backlog is None else torch.cat([first, self.backlog], 1), *others]
