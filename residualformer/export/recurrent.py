"""One step of the recurrent encoders as a graph: `RecurrentEncoder.step`.

Of an AmNet's branches only those are computed that a stream of the batch goes through: each stands in an ONNX `If`,
and every stream then takes the result of its own. With one stream that is the chosen branch alone.
"""

from __future__ import annotations

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import StateShape, Step, before, gru_cell, lstm_cell, normalised
from residualformer.kernels.scan import NUM_STATES
from residualformer.nn.branches import FactorisedWeight, Weight
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.recurrent import RecurrentEncoder

State = list[str]  # h and c, or h, each (N, H)


class RecurrentGraph:
    """The encoder with the joiner's projection of its frames.

    Args:
        merged: the dense matrix of a factorised branch instead of its factors.

    The parts of its state are h of all layers, then c (zeros for GRU). `front` is (h, c) of each of the arbitrator's
    layers and the last decision but for the slow branch, so that a stream of zeros starts slow as it should.
    """

    frames_per_step = 1

    def __init__(self, encoder: RecurrentEncoder, joiner: TanhJoiner | AdditiveJoiner, merged: bool) -> None:
        self.encoder, self.joiner, self.arbitrator, self.merged = encoder, joiner, encoder.arbitrator, merged
        self.layers = len(encoder.layers)
        self.front = [1]  # one zero where there is nothing to carry: an array must have elements
        if self.arbitrator is not None:
            self.front = [self.arbitrator.dim] * (2 * len(self.arbitrator.bias)) + [encoder.num_branches - 1]
        self.state = StateShape(2 * self.layers, 1, encoder.dim, sum(self.front))

    def build(self, g: Graph, x: str, length: str | None, state: Step) -> Step:
        """As `EncoderGraph.build`."""
        encoder, dim = self.encoder, self.encoder.dim
        real = None if length is None else before(g, encoder.window, length)
        x = g.reshape(normalised(g, encoder, x, real), 0, encoder.window * encoder.mean.numel())
        kinds = NUM_STATES[encoder.config.kind]
        flat = [g.reshape(part, 0, dim) for part in state.parts[: kinds * self.layers]]
        layers = [flat[index :: self.layers] for index in range(self.layers)]
        front = state.front
        if self.arbitrator is None:
            layers = self._branch(g, x, layers, 0)
        else:
            front, fast = self._arbitrate(g, x, layers[-1][0], front)
            layers = self._chosen(g, x, layers, fast)
        parts = [g.reshape(layer[kind], 0, 1, 1, dim) for kind in range(kinds) for layer in layers]
        project = self.joiner.project_encoder
        y = g.linear(layers[-1][0], "joiner.project_encoder", lambda: project.weight.T, lambda: project.bias)
        parts += state.parts[len(parts) :]
        return Step(g.Unsqueeze(y, g.constant([1])), parts, front, g.Add(state.seen, g.constant(1)))

    def _branch(self, g: Graph, x: str, layers: list[State], branch: int) -> list[State]:
        """One frame x (N, stride * F) through all layers of one branch."""
        new = []
        for index, (layer, state) in enumerate(zip(self.encoder.layers, layers, strict=True)):
            name = f"layers.{index}"
            gates, recurrent = (
                self._product(g, value, f"{name}.{kind}", weight, branch)
                for value, kind, weight in ((x, "input", layer.input), (state[0], "recurrent", layer.recurrent))
            )
            if layer.bias.dim() == 1:
                gates = g.Add(gates, g.weight(f"{name}.bias", lambda bias=layer.bias: bias))
            else:
                gates = g.Add(gates, g.weight(f"{name}.bias.{branch}", lambda bias=layer.bias: bias[branch]))
            if layer.kind == "gru":
                state = gru_cell(g, gates, recurrent, state[0])
            else:
                state = lstm_cell(g, g.Add(gates, recurrent), state[1])
            new.append(state)
            x = state[0]
        return new

    def _arbitrate(self, g: Graph, x: str, h: str, front: str) -> tuple[str, list[str]]:
        """The next `front`, and for each branch but the slow one (N, 1) float: 1 where the frame goes through it."""
        config, branches = self.encoder.amnet.arbitrator, self.encoder.num_branches
        *states, last = g.split(front, 1, self.front)
        seen = [x]
        if config.use_state:
            seen.append(h)
        if config.use_decision:
            slow = g.Sub(g.constant(1, "float32"), g.ReduceSum(last, g.constant([1]), keepdims=1))
            seen += [slow, last]
        y, new = g.concat(seen, 1), []
        weights = zip(self.arbitrator.input, self.arbitrator.recurrent, self.arbitrator.bias, strict=True)
        for index, (w_input, w_recurrent, bias) in enumerate(weights):
            name = f"arbitrator.{index}"
            gates = g.linear(y, f"{name}.input", lambda w=w_input: w.T, lambda b=bias: b)
            gates = g.Add(gates, g.matmul(states[2 * index], f"{name}.recurrent.weight", lambda w=w_recurrent: w.T))
            y, c = lstm_cell(g, gates, states[2 * index + 1])
            new += [y, c]
        out = self.arbitrator.out
        logits = g.linear(y, "arbitrator.out", lambda: out.weight.T, lambda: out.bias)
        best = g.ArgMax(logits, axis=1, keepdims=1)
        fast = g.Cast(g.Equal(best, g.constant([list(range(1, branches))])), to=1)
        return g.concat([*new, fast], 1), g.split(last if config.delay else fast, 1, [1] * (branches - 1))

    def _chosen(self, g: Graph, x: str, layers: list[State], fast: list[str]) -> list[State]:
        """One frame of each stream through its own branch."""
        total = g.Sum(*fast)
        taken = [g.Sub(g.constant(1, "float32"), total), *fast]  # (N, 1) of each branch
        old = [part for state in layers for part in state]
        new = old
        for branch, mine in enumerate(taken):
            mine = g.Greater(mine, g.constant(0.5, "float32"))
            anyone = g.Greater(g.ReduceMax(g.Cast(mine, to=1), keepdims=0), g.constant(0.5, "float32"))
            found = g.either(anyone, lambda inner, n=branch: _flat(self._branch(inner, x, layers, n)), old)
            new = [g.Where(mine, theirs, others) for theirs, others in zip(found, new, strict=True)]
        kinds = len(layers[0])
        return [new[start : start + kinds] for start in range(0, len(new), kinds)]

    def _product(self, g: Graph, x: str, name: str, weight: Weight, branch: int) -> str:
        """x (N, v) times the weight of a branch: (N, w).

        Factors are stored in pieces of columns that branches of growing rank add one after the other, each piece once.
        """
        if isinstance(weight, FactorisedWeight) and not self.merged:
            total, start = None, 0
            for end in [rank for rank in sorted(set(weight.ranks)) if rank <= weight.ranks[branch]]:
                columns = slice(start, end)
                low = g.matmul(x, f"{name}.P2.{start}", lambda c=columns: weight.P2[:, c])
                piece = g.matmul(low, f"{name}.P1.{start}", lambda c=columns: weight.P1[:, c].T)
                total, start = piece if total is None else g.Add(total, piece), end
            return total
        own = f".{branch}" if self.encoder.num_branches > 1 else ""
        return g.matmul(x, f"{name}{own}.weight", lambda: weight.dense(branch).T)


def _flat(layers: list[State]) -> list[str]:
    return [part for state in layers for part in state]
