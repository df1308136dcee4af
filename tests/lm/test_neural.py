"""Files of neural language models: those of this toolkit and of the recognizer's tokens are loaded, no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from residualformer.config.language_model import LanguageModelConfig
from residualformer.errors import UserError
from residualformer.export.language_model import language_model_graph
from residualformer.lm.loading import load_language_model
from residualformer.nn.language_model import LanguageModel

PIECES = ["<blk>", "<unk>", "a", "b"]
CONFIG = LanguageModelConfig(kind="lstm", embedding_dim=3, hidden_dim=4, num_layers=2)


def write(folder: Path, vocab_size: int = len(PIECES), swap_outputs: bool = False) -> Path:
    graph = language_model_graph(LanguageModel(vocab_size, CONFIG).eval(), PIECES)
    if swap_outputs:
        graph.graph.output.insert(0, graph.graph.output.pop())
    path = folder / "lm.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


def test_other_tokens_are_refused(tmp_path):
    path = write(tmp_path)
    assert "lstm" in load_language_model(path, PIECES).describe()
    with pytest.raises(UserError, match="is of other tokens than the recognizer"):
        load_language_model(path, ["<blk>", "<unk>", "b", "a"])


def test_another_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="writes values of another shape"):
        load_language_model(write(tmp_path, vocab_size=5), PIECES)
    with pytest.raises(UserError, match="is no language model of this toolkit"):
        load_language_model(write(tmp_path, swap_outputs=True), PIECES)


def test_damage_is_told(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be loaded .*: train the language model again"):
        load_language_model(path, PIECES)
