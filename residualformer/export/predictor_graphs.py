"""One step of the predictors, and the joiner, as graphs. Labels are numbered as in training here: blank is 0."""

from __future__ import annotations

from torch import Tensor

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import lstm_cell
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.predictor import LSTMPredictor, StatelessPredictor

Joiner = TanhJoiner | AdditiveJoiner


def lstm_step(g: Graph, predictor: LSTMPredictor, labels: str, h: str, c: str) -> tuple[str, str, str]:
    """labels (N, 1) int64, h and c (layers, N, P) -> output (N, P), and the new h and c."""
    lstm, layers = predictor.lstm, predictor.config.num_layers
    x = g.Squeeze(g.embedding(labels, "embedding", lambda: predictor.embedding.table.weight), g.constant([1]))
    states = zip(*(g.split(part, 0, [1] * layers) for part in (h, c)), strict=True)
    new_h, new_c = [], []
    for index, state in enumerate(states):
        before, cell = (g.Squeeze(part, g.constant([0])) for part in state)
        w_input, w_recurrent, b_input, b_recurrent = (
            getattr(lstm, f"{name}_l{index}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        gates = g.linear(x, f"lstm.{index}.input", lambda w=w_input: w.T, lambda b=b_input + b_recurrent: b)
        gates = g.Add(gates, g.matmul(before, f"lstm.{index}.recurrent.weight", lambda w=w_recurrent: w.T))
        x, cell = lstm_cell(g, gates, cell)
        new_h.append(g.Unsqueeze(x, g.constant([0])))
        new_c.append(g.Unsqueeze(cell, g.constant([0])))
    return x, g.concat(new_h, 0), g.concat(new_c, 0)


def stateless_step(g: Graph, predictor: StatelessPredictor, labels: str) -> str:
    """The last context_size labels (N, context_size) int64, the newest last -> output (N, P).

    The convolution over exactly its kernel is a product with one matrix.
    """
    config, conv = predictor.config, predictor.conv
    x = g.embedding(labels, "embedding", lambda: predictor.embedding.table.weight)
    x = g.reshape(x, 0, config.context_size * config.embedding_dim)
    return g.Relu(g.linear(x, "conv", lambda: conv.weight.permute(2, 1, 0).flatten(0, 1), lambda: conv.bias))


def projected(g: Graph, joiner: Joiner, x: str) -> str:
    """The predictor's output (N, P) in the joint space: (N, J)."""
    project = joiner.project_predictor
    bias = None if project.bias is None else lambda: project.bias
    return g.linear(x, "joiner.project_predictor", lambda: project.weight.T, bias)


def logits(g: Graph, joiner: Joiner, encoder_out: str, decoder_out: str, blank_last: bool) -> str:
    """Both sides in the joint space, (N, J) -> logits (N, V); with `blank_last` the blank has the last id."""
    joint = g.Add(encoder_out, decoder_out)
    if isinstance(joiner, AdditiveJoiner):
        if not blank_last:
            return joint
        blank, rest = g.split(joint, 1, [1, joiner.project_encoder.out_features - 1])
        return g.concat([rest, blank], 1)

    def moved(rows: Tensor) -> Tensor:
        return rows.roll(-1, 0) if blank_last else rows

    vocabulary = joiner.vocabulary
    return g.linear(g.Tanh(joint), "vocabulary", lambda: moved(vocabulary.weight).T, lambda: moved(vocabulary.bias))
