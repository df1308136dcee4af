"""A neural language model as an ONNX graph (`residualformer/lm/neural.py` describes it)."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from residualformer.export.builder import Graph
from residualformer.export.predictor_graphs import lstm_step
from residualformer.lm.neural import TOKENS, tokens_digest
from residualformer.nn.language_model import LanguageModel
from residualformer.runtime.settings import Size


def language_model_graph(model: LanguageModel, pieces: Sequence[str]) -> onnx.ModelProto:
    """Return one step of a language model in fp32, with the digest of the text of its labels."""
    g, config = Graph(), model.network.config
    labels = g.input("labels", "int64", ["N", 1])
    size: list[Size] = [config.num_layers, "N", config.hidden_dim]
    h, c = (g.input(name, "float32", size) for name in ("h", "c"))
    x, new_h, new_c = lstm_step(g, model.network, labels, h, c)
    logits = g.linear(x, "output", model.output.weight.T, model.output.bias)
    g.output("logp", g.op("LogSoftmax", logits, axis=-1), "float32", ["N", model.vocab_size])
    g.output("new_h", new_h, "float32", size)
    g.output("new_c", new_c, "float32", size)
    return g.model("language_model", {TOKENS: tokens_digest(pieces)})
