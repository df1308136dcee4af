"""Recurrent encoder: plain LSTM or GRU layers, or branches of them, one of which an arbitrator chooses for each frame.

AmNets, section 2 (the AmRNN layer) and section 3. Letters: N utterances, T' encoder frames, H outputs, B branches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.amnet import AmNetConfig
from residualformer.config.schema import EncoderConfig
from residualformer.kernels.dropout import Dropout
from residualformer.kernels.recurrent import GATES, NUM_STATES, State, cell, recurrent_layer
from residualformer.kernels.scan import scan
from residualformer.nn.arbitrator import Arbitrator, GumbelSoftmax, Sampler, one_hot
from residualformer.nn.branches import PlainWeight, make_weight
from residualformer.nn.encoder import BranchedEncoder, Encoded
from residualformer.nn.typed import ModuleList

Matrices = tuple[Tensor, Tensor]  # input and recurrent ones of all branches: (B, gates * H, D), (B, gates * H, H)


@dataclass
class RecurrentState:
    """State of N streams; no tensor in it is ever modified in place."""

    layers: list[State]  # (h, c) of each layer, or (h,) for GRU, each (N, H)
    arbitrator: list[State]  # (h, c) of each of its layers, (N, hidden_dim); empty where there is one branch
    decision: Tensor  # (N, B), the arbitrator's last decision, one-hot; slow before the first frame
    branch: Tensor  # (N,) int64, the branch that the last frame of each stream went through


class RecurrentLayer(nn.Module):
    """One layer of every branch: input weights (gates * H, D), recurrent ones (gates * H, H), one bias per gate.

    `bias` is (gates * H,), shared by the branches, or (B, gates * H) for sparse branches, which share nothing.
    """

    def __init__(self, kind: str, input_dim: int, dim: int, amnet: AmNetConfig) -> None:
        super().__init__()
        self.kind = kind
        width, bound = GATES[kind] * dim, 1 / math.sqrt(dim)
        self.input = make_weight(amnet, width, input_dim, bound)
        self.recurrent = make_weight(amnet, width, dim, bound)
        own = (len(amnet.compression),) if amnet.method == "sparse" else ()
        self.bias = nn.Parameter(torch.empty(*own, width).uniform_(-bound, bound))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the only branch: x (T, N, D) -> (T, N, H) and the new state."""
        return recurrent_layer(self.kind, x, state, self.input.dense(0), self.recurrent.dense(0), self.bias.view(-1))

    def dense(self) -> Matrices:
        """Return the matrices of all branches."""
        return self.input.dense_all(), self.recurrent.dense_all()

    def branched(self, x: Tensor, state: State, decisions: Tensor, dense: Matrices) -> tuple[Tensor, Tensor, State]:
        """Run all branches in step.

        Args:
            x: (T, N, D), or of each branch (B, T, N, D).
            decisions: (B, T, N).
            dense: from `dense()`.

        Returns:
            h of each branch (B, T, N, H), combined h (T, N, H), and the new state.
        """
        w_input, w_recurrent = dense
        x = x.expand(len(w_input), *x.shape) if x.dim() == 3 else x
        bias = self.bias.expand(len(w_input), -1).unsqueeze(1)
        gates = torch.baddbmm(bias, x.flatten(1, 2), w_input.transpose(1, 2))
        return scan(self.kind, gates.to(state[0].dtype), w_recurrent, decisions, state)

    def step(self, x: Tensor, state: State, branch: int) -> State:
        """Run one frame x (N, D) through one branch, by the cheap products of its weights; returns the new state."""
        bias = self.bias if self.bias.dim() == 1 else self.bias[branch]
        if isinstance(self.input, PlainWeight) and isinstance(self.recurrent, PlainWeight):
            return recurrent_layer(self.kind, x.unsqueeze(0), state, self.input.W, self.recurrent.W, bias)[1]
        gates = self.input.product(x, branch) + bias
        return cell(self.kind, gates, self.recurrent.product(state[0], branch), state)

    def flops(self, branch: int) -> float:
        """Return the multiply-accumulates of one frame of a branch, without biases."""
        return self.input.flops(branch) + self.recurrent.flops(branch)


class RecurrentEncoder(BranchedEncoder[RecurrentState]):
    """Unidirectional recurrent layers over feature frames stacked `encoder.stack_frames` at a time.

    With B >= 2 branches all see the same combined states {h, c} of the frame before; layer l of a branch sees that
    branch's own layer l - 1. The output is the combined h of the last layer.
    """

    def __init__(self, config: EncoderConfig, amnet: AmNetConfig, num_mel_bins: int) -> None:
        stride = config.stride
        super().__init__(num_mel_bins, dim=config.dim, stride=stride, window=stride, shift=stride)
        self.config, self.amnet = config, amnet
        self.num_branches = 1 if amnet.method == "none" else len(amnet.compression)
        self.sampler: Sampler = GumbelSoftmax(1.0)  # decides in training; in eval mode it is always `one_hot`
        size = stride * num_mel_bins
        inputs = [size] + [config.dim] * (config.num_layers - 1)
        self.layers = ModuleList[RecurrentLayer](RecurrentLayer(config.kind, i, config.dim, amnet) for i in inputs)
        self.dropout = Dropout(config.dropout)
        self.arbitrator: Arbitrator | None = None
        if self.num_branches > 1:
            extra = amnet.arbitrator.use_state * config.dim + amnet.arbitrator.use_decision * self.num_branches
            self.arbitrator = Arbitrator(size + extra, self.num_branches, amnet.arbitrator)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole utterances; see `Encoder.forward`."""
        encoded = self.encode(features, lengths, self.sampler if self.training else one_hot)
        return encoded.frames, encoded.lengths

    def encode(self, features: Tensor, lengths: Tensor, sampler: Sampler) -> Encoded:
        """Encode whole utterances; see `BranchedEncoder.encode`."""
        x = self._stack(features, lengths)
        lengths, first = self.output_lengths(lengths), self.init_state(len(x))
        if self.arbitrator is None:
            return Encoded(self._one_branch(x, first.layers), lengths, None, None)
        dense = [layer.dense() for layer in self.layers]
        frames = None
        if self._arbitrator_looks_back:
            frames, decisions, logits = self._frame_by_frame(x, first, dense, sampler)
        else:
            logits, _ = self.arbitrator(x)
            decisions = self._delayed(sampler(logits), first.decision)
        if frames is None:
            frames, _ = self._branches(x, first.layers, dense, decisions)
        return Encoded(frames, lengths, decisions, logits)

    def encode_through(self, features: Tensor, lengths: Tensor, branches: Tensor) -> Tensor:
        """Encode whole utterances, each frame by the branch that is given; see `BranchedEncoder.encode_through`."""
        x = self._stack(features, lengths)
        decisions = F.one_hot(branches, self.num_branches).to(x.dtype)
        dense = [layer.dense() for layer in self.layers]
        return self._branches(x, self.init_state(len(x)).layers, dense, decisions)[0]

    def arbitrate(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits (N, T', B) alone, running branches only if the arbitrator looks at what they did before."""
        assert self.arbitrator is not None
        if self._arbitrator_looks_back:
            logits = self.encode(features, lengths, one_hot).arbitrator_logits
            assert logits is not None
            return logits
        return self.arbitrator(self._stack(features, lengths))[0]

    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """Return the weight matrices of plain layers, each with one matrix of every gate stacked in it."""
        weights = [weight for layer in self.layers for weight in (layer.input, layer.recurrent)]
        return [(weight.W, GATES[self.config.kind]) for weight in weights if isinstance(weight, PlainWeight)]

    def init_state(self, batch_size: int) -> RecurrentState:
        """Return the state before the first frame of `batch_size` streams."""
        zeros = self.mean.new_zeros(batch_size, self.dim)
        decision = self.mean.new_zeros(batch_size, self.num_branches)
        decision[:, 0] = 1
        arbitrator = [] if self.arbitrator is None else self.arbitrator.init_state(batch_size)
        layers = [(zeros,) * NUM_STATES[self.config.kind] for _ in self.layers]
        return RecurrentState(
            layers, arbitrator, decision, torch.zeros(batch_size, dtype=torch.long, device=zeros.device)
        )

    def step(self, features: Tensor, lengths: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Encode one frame of each stream by its chosen branch, (N, window, F) -> (N, 1, H); see `Encoder.step`."""
        x = self._stack(features, lengths)
        arbitrator, decision, branch = state.arbitrator, state.decision, torch.zeros_like(state.branch)
        if self.arbitrator is not None:
            logits, arbitrator = self._arbitrate(x, state.layers[-1][0], state.decision, state.arbitrator)
            decision = one_hot(logits)[:, 0]
            branch = (state.decision if self.amnet.arbitrator.delay else decision).argmax(1)
        layers = self._chosen(x[:, 0], state.layers, branch)
        return layers[-1][0].unsqueeze(1), RecurrentState(layers, arbitrator, decision, branch)

    def step_through(
        self, features: Tensor, lengths: Tensor, state: RecurrentState, branch: Tensor
    ) -> tuple[Tensor, RecurrentState]:
        """Do what `step` does, by the branch (N,) int64 that is given; the arbitrator is not asked."""
        layers = self._chosen(self._stack(features, lengths)[:, 0], state.layers, branch)
        return layers[-1][0].unsqueeze(1), replace(state, layers=layers, branch=branch)

    def branch_flops(self) -> list[float]:
        """Return the multiply-accumulates per encoder frame of each branch, without biases."""
        return [sum(layer.flops(n) for layer in self.layers) for n in range(self.num_branches)]

    @property
    def _arbitrator_looks_back(self) -> bool:
        return self.amnet.arbitrator.use_state or self.amnet.arbitrator.use_decision

    def _stack(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return normalized frames, stacked: (N, T, F) -> (N, T', stride * F)."""
        x = self.normalize(features, lengths)
        return x.reshape(len(x), -1, self.stride * x.size(2))

    def _one_branch(self, x: Tensor, states: list[State]) -> Tensor:
        """Run x (N, T', D) through the only branch, layer by layer: (N, T', H)."""
        y = x.transpose(0, 1)
        for layer, state in zip(self.layers, states, strict=True):
            y = self.dropout(layer(y, state)[0])
        return y.transpose(0, 1)

    def _branches(
        self, x: Tensor, states: list[State], dense: list[Matrices], decisions: Tensor
    ) -> tuple[Tensor, list[State]]:
        """Run x (N, T', D) through all branches, layer by layer, by decisions (N, T', B): (N, T', H), new states."""
        y, decisions = x.transpose(0, 1), decisions.permute(2, 1, 0)
        new: list[State] = []
        for layer, state, matrices in zip(self.layers, states, dense, strict=True):
            y = self.dropout(y) if new else y
            y, h, state = layer.branched(y, state, decisions, matrices)
            new.append(state)
        return self.dropout(h).transpose(0, 1), new

    def _frame_by_frame(
        self, x: Tensor, state: RecurrentState, dense: list[Matrices], sampler: Sampler
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Ask an arbitrator that looks back, one frame after another.

        Returns:
            frames (N, T', H) if the arbitrator sees h_{t-1}, else None; decisions and logits (N, T', B).
        """
        layers, arbitrator, before = state.layers, state.arbitrator, state.decision
        frames, decisions, logits = [], [], []
        for x_t in x.split(1, dim=1):
            logit, arbitrator = self._arbitrate(x_t, layers[-1][0], before, arbitrator)
            decision = sampler(logit)
            decisions.append(self._delayed(decision, before))
            logits.append(logit)
            if self.amnet.arbitrator.use_state:
                h, layers = self._branches(x_t, layers, dense, decisions[-1])
                frames.append(h)
            before = decision[:, 0]
        return torch.cat(frames, 1) if frames else None, torch.cat(decisions, 1), torch.cat(logits, 1)

    def _arbitrate(self, x: Tensor, h: Tensor, decision: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Ask the arbitrator about one frame x (N, 1, D), with h_{t-1} and d_{t-1} where it sees them."""
        assert self.arbitrator is not None
        seen = [x[:, 0]]
        if self.amnet.arbitrator.use_state:
            seen.append(h)
        if self.amnet.arbitrator.use_decision:
            seen.append(decision)
        return self.arbitrator(torch.cat(seen, 1).unsqueeze(1), state)

    def _delayed(self, decisions: Tensor, before: Tensor) -> Tensor:
        """Move decisions (N, T, B) on by `delay` frames; before (N, B) comes first."""
        if not self.amnet.arbitrator.delay:
            return decisions
        return torch.cat([before.unsqueeze(1).to(decisions.dtype), decisions[:, :-1]], 1)

    def _chosen(self, x: Tensor, states: list[State], branch: Tensor) -> list[State]:
        """Run one frame x (N, D) of each stream through its branch (N,), streams of the same branch together."""
        present = sorted(set(branch.tolist()))
        if len(present) == 1:
            return self._branch(x, states, present[0])
        new = [tuple(torch.empty_like(part) for part in state) for state in states]
        for number in present:
            streams = (branch == number).nonzero().flatten()
            before = [tuple(part[streams] for part in state) for state in states]
            after = self._branch(x[streams], before, number)
            for state, state_after in zip(new, after, strict=True):
                for part, values in zip(state, state_after, strict=True):
                    part[streams] = values
        return new

    def _branch(self, x: Tensor, states: list[State], branch: int) -> list[State]:
        """Run one frame x (N, D) through all layers of one branch."""
        new = []
        for layer, state in zip(self.layers, states, strict=True):
            state = layer.step(x, state, branch)
            new.append(state)
            x = state[0]
        return new
