"""One step of the predictors, and the joiner, as graphs; labels are numbered as in training, the blank first."""

from __future__ import annotations

from residualformer.export.builder import Graph
from residualformer.export.encoder_graphs import lstm_cell
from residualformer.nn.joiner import AdditiveJoiner, Joiner
from residualformer.nn.predictor import LSTMPredictor, StatelessPredictor


def lstm_step(g: Graph, predictor: LSTMPredictor, labels: str, h: str, c: str) -> tuple[str, str, str]:
    """Run the LSTM: labels (N, 1) int64, h and c (layers, N, P) -> output (N, P), and the new h and c."""
    lstm, layers = predictor.lstm, predictor.config.num_layers
    x = g.op("Squeeze", g.embedding(labels, "embedding", predictor.embedding.table.weight), g.constant([1]))
    states = zip(*(g.split(part, 0, [1] * layers) for part in (h, c)), strict=True)
    new_h, new_c = [], []
    for index, state in enumerate(states):
        before, cell = (g.op("Squeeze", part, g.constant([0])) for part in state)
        w_input, w_recurrent, b_input, b_recurrent = lstm.all_weights[index]
        gates = g.linear(x, f"lstm.{index}.input", w_input.T, b_input + b_recurrent)
        gates = g.op("Add", gates, g.matmul(before, f"lstm.{index}.recurrent.weight", w_recurrent.T))
        x, cell = lstm_cell(g, gates, cell)
        new_h.append(g.op("Unsqueeze", x, g.constant([0])))
        new_c.append(g.op("Unsqueeze", cell, g.constant([0])))
    return x, g.concat(new_h, 0), g.concat(new_c, 0)


def stateless_step(g: Graph, predictor: StatelessPredictor, labels: str) -> str:
    """Return the output (N, P) after the last labels (N, context_size) int64, the newest last.

    The convolution over exactly its kernel is a product with one matrix.
    """
    config, conv = predictor.config, predictor.conv
    x = g.embedding(labels, "embedding", predictor.embedding.table.weight)
    x = g.reshape(x, 0, config.context_size * config.embedding_dim)
    return g.op("Relu", g.linear(x, "conv", conv.weight.permute(2, 1, 0).flatten(0, 1), conv.bias))


def projected(g: Graph, joiner: Joiner, x: str) -> str:
    """Project the predictor's output (N, P) into the joint space: (N, J)."""
    project = joiner.project_predictor
    return g.linear(x, "joiner.project_predictor", project.weight.T, project.bias)


def logits(g: Graph, joiner: Joiner, encoder_out: str, decoder_out: str, blank_last: bool) -> str:
    """Return the logits (N, V) of both sides in the joint space, (N, J), with the blank first or last."""
    joint = g.op("Add", encoder_out, decoder_out)
    if isinstance(joiner, AdditiveJoiner):
        if not blank_last:
            return joint
        blank, rest = g.split(joint, 1, [1, joiner.project_encoder.out_features - 1])
        return g.concat([rest, blank], 1)
    shift = -1 if blank_last else 0
    weight, bias = (part.roll(shift, 0) for part in (joiner.vocabulary.weight, joiner.vocabulary.bias))
    return g.linear(g.op("Tanh", joint), "vocabulary", weight.T, bias)
