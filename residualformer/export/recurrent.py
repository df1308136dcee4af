"""One step of the recurrent encoders as a graph: `RecurrentEncoder.step`.

Each branch of an AmNet is in an ONNX `If`, so that only branches that a stream of the batch takes are computed; with
one stream that is the chosen branch alone.
"""

from __future__ import annotations

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import (
    StateShape,
    Step,
    any_stream,
    decide,
    gru_cell,
    lstm_cell,
    normalized,
    positions_below,
    state_sizes,
)
from residualformer.kernels.recurrent import NUM_STATES
from residualformer.nn.arbitrator import Arbitrator
from residualformer.nn.branches import FactorisedWeight, Weight
from residualformer.nn.joiner import Joiner
from residualformer.nn.recurrent import RecurrentEncoder

State = list[str]  # h and c, or h, each (N, H)


class RecurrentGraph:
    """A recurrent encoder, followed by the joiner's projection of its frames.

    The parts of its state are h of all layers, then c (zeros for GRU). `front` is (h, c) of each of the arbitrator's
    layers and the last decision without the slow branch's entry, so that zeros mean the slow branch.

    Args:
        merged: write the dense matrix of a factorized branch instead of its factors.
    """

    frames_per_step = 1

    def __init__(self, encoder: RecurrentEncoder, joiner: Joiner, merged: bool) -> None:
        self.encoder, self.joiner, self.arbitrator, self.merged = encoder, joiner, encoder.arbitrator, merged
        self.layers = len(encoder.layers)
        self.front = [1]  # one zero where there is nothing to carry: an array must have elements
        if self.arbitrator is not None:
            self.front = state_sizes(self.arbitrator)
        self.state = StateShape(2 * self.layers, 1, encoder.dim, sum(self.front))

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """Add one step, as `EncoderGraph.build`."""
        encoder, dim = self.encoder, self.encoder.dim
        real = None if length is None else positions_below(g, encoder.window, length)
        x = g.reshape(normalized(g, encoder, x, real), 0, encoder.window * encoder.mean.numel())
        kinds = NUM_STATES[encoder.config.kind]
        flat = [g.reshape(part, 0, dim) for part in state.parts[: kinds * self.layers]]
        layers = [flat[index :: self.layers] for index in range(self.layers)]
        front = state.front
        if self.arbitrator is None:
            layers = self._branch(g, x, layers, 0)
        else:
            front, fast = self._arbitrate(g, self.arbitrator, x, layers[-1][0], front)
            layers = self._chosen(g, x, layers, fast)
        parts = [g.reshape(layer[kind], 0, 1, 1, dim) for kind in range(kinds) for layer in layers]
        project = self.joiner.project_encoder
        y = g.linear(layers[-1][0], "joiner.project_encoder", project.weight.T, project.bias)
        parts += state.parts[len(parts) :]
        return Step(g.op("Unsqueeze", y, g.constant([1])), parts, front, g.op("Add", state.seen, g.constant(1)))

    def _branch(self, g: Graph, x: str, layers: list[State], branch: int) -> list[State]:
        """Run all layers of one branch on a frame x (N, stride * F)."""
        new = []
        for index, (layer, state) in enumerate(zip(self.encoder.layers, layers, strict=True)):
            name = f"layers.{index}"
            gates, recurrent = (
                self._product(g, value, f"{name}.{kind}", weight, branch)
                for value, kind, weight in ((x, "input", layer.input), (state[0], "recurrent", layer.recurrent))
            )
            if layer.bias.dim() == 1:
                gates = g.op("Add", gates, g.weight(f"{name}.bias", layer.bias))
            else:
                gates = g.op("Add", gates, g.weight(f"{name}.bias.{branch}", layer.bias[branch]))
            if layer.kind == "gru":
                state = gru_cell(g, gates, recurrent, state[0])
            else:
                state = lstm_cell(g, g.op("Add", gates, recurrent), state[1])
            new.append(state)
            x = state[0]
        return new

    def _arbitrate(self, g: Graph, arbitrator: Arbitrator, x: str, h: str, front: str) -> tuple[str, list[str]]:
        """Return the next `front`, and for each branch but the slow one (N, 1) float: 1 where the frame takes it."""
        config, branches = self.encoder.amnet.arbitrator, self.encoder.num_branches
        *states, last = g.split(front, 1, self.front)
        seen = [x]
        if config.use_state:
            seen.append(h)
        if config.use_decision:
            slow = g.op("Sub", g.constant(1, "float32"), g.op("ReduceSum", last, g.constant([1]), keepdims=1))
            seen += [slow, last]
        decision = decide(g, arbitrator, g.concat(seen, 1), states)
        taken = last if config.delay else decision.others
        return g.concat([*decision.states, decision.others], 1), g.split(taken, 1, [1] * (branches - 1))

    def _chosen(self, g: Graph, x: str, layers: list[State], fast: list[str]) -> list[State]:
        """Run each stream's own branch on its frame."""
        total = g.op("Sum", *fast)
        taken = [g.op("Sub", g.constant(1, "float32"), total), *fast]  # (N, 1) of each branch
        old = _flat(layers)
        new = old
        for branch, mine in enumerate(taken):
            mine = g.op("Greater", mine, g.constant(0.5, "float32"))
            inner = g.branch()
            found = g.either(any_stream(g, mine), inner, _flat(self._branch(inner, x, layers, branch)), old)
            new = [g.op("Where", mine, theirs, others) for theirs, others in zip(found, new, strict=True)]
        kinds = len(layers[0])
        return [new[start : start + kinds] for start in range(0, len(new), kinds)]

    def _product(self, g: Graph, x: str, name: str, weight: Weight, branch: int) -> str:
        """Multiply x (N, v) by the weight of a branch: (N, w).

        Factors are stored in pieces of columns, each once; a branch of a higher rank adds more pieces.
        """
        if isinstance(weight, FactorisedWeight) and not self.merged:
            total, start = "", 0
            for end in [rank for rank in sorted(set(weight.ranks)) if rank <= weight.ranks[branch]]:
                low = g.matmul(x, f"{name}.P2.{start}", weight.P2[:, start:end])
                piece = g.matmul(low, f"{name}.P1.{start}", weight.P1[:, start:end].T)
                total, start = g.op("Add", total, piece) if total else piece, end
            return total
        own = f".{branch}" if self.encoder.num_branches > 1 else ""
        return g.matmul(x, f"{name}{own}.weight", weight.dense(branch).T)


def _flat(layers: list[State]) -> list[str]:
    return [part for state in layers for part in state]
