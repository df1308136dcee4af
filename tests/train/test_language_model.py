"""Neural language models: training, the exported network and its scorer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from residualformer.config.language_model import LanguageModelConfig
from residualformer.errors import UserError
from residualformer.export.language_model import language_model_graph
from residualformer.lm.loading import load_language_model
from residualformer.lm.perplexity import perplexity
from residualformer.nn.language_model import LanguageModel
from residualformer.train import language_model as training
from residualformer.train.language_model import evaluate, train_language_model

PIECES = ["<blk>", "<unk>", "a", "b", "c"]
SMALL = LanguageModelConfig(
    kind="lstm", embedding_dim=6, hidden_dim=8, num_layers=2, dropout=0.1, max_epochs=4, batch_tokens=30, lr=0.02
)
TRAIN = [[2, 3] * (1 + n % 3) for n in range(30)]
DEV = [[2, 3], [2, 3, 2, 3], []]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(len(PIECES), SMALL).eval()


@pytest.fixture
def loaded(model, tmp_path):
    path = tmp_path / "lm.onnx"
    path.write_bytes(language_model_graph(model, PIECES).SerializeToString())
    return load_language_model(path, PIECES)


def test_the_exported_network_equals_torch(model, loaded):
    labels = [2, 4, 3, 3, 1, 2]
    with torch.no_grad():
        expected = model(torch.tensor([labels]))[0]
    scorer = loaded.scorer()
    state = np.array([scorer.start()])
    for position, label in enumerate(labels):
        # float32, some ten additions deep
        np.testing.assert_allclose(scorer.scores(state)[0, 1:], expected[position, 1:], atol=1e-5)
        np.testing.assert_allclose(scorer.final(state), expected[position, 0], atol=1e-5)
        assert scorer.scores(state)[0, 0] == 0
        state = scorer.advance(state, np.array([label]))


def test_equal_sequences_are_one_state_and_one_computation(loaded, monkeypatch):
    steps = []
    step = loaded.step
    monkeypatch.setattr(loaded, "step", lambda labels, states: steps.append(list(labels)) or step(labels, states))
    scorer = loaded.scorer()
    states = scorer.advance(np.array([0, 0, 0]), np.array([2, 3, 2]))
    assert states[0] == states[2] != states[1]
    later = scorer.advance(states, np.array([3, 3, 3]))
    scorer.scores(later)
    assert steps == [[2, 3], [3, 3]]  # whole batches, those before the first that is asked for included
    scorer.scores(states)
    assert len(steps) == 2


def test_what_is_not_kept_is_forgotten(loaded):
    scorer = loaded.scorer()
    state = np.array([scorer.start()])
    for label in [2, 3, 4] * 20:
        scorer.scores(scorer.advance(np.repeat(state, 3), np.array([2, 3, 4])))
        state = scorer.advance(state, np.array([label]))
        scorer.keep(state)
    assert len(scorer._nodes) == 2
    assert len(scorer._numbers) == 0
    assert scorer.scores(state).shape == (1, len(PIECES))


def test_probabilities_sum_to_one(loaded):
    scorer = loaded.scorer()
    states = scorer.advance(np.zeros(4, np.int64), np.array([1, 2, 3, 4]))
    total = np.exp(scorer.scores(states)[:, 1:]).sum(1) + np.exp(scorer.final(states))
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_training_learns_and_measures_alike(tmp_path):
    config = replace(SMALL, max_epochs=8, num_layers=1, lr=0.05)
    model = train_language_model(TRAIN, DEV, len(PIECES), config, 1, tmp_path / "state.safetensors")
    loss = evaluate(model, DEV, 30)
    assert loss < math.log(2)  # a b a b ... is certain but for its end; untrained it is log 5
    path = tmp_path / "lm.onnx"
    path.write_bytes(language_model_graph(model, PIECES).SerializeToString())
    measured = perplexity(load_language_model(path, PIECES), DEV, 6)
    assert measured.per_token == pytest.approx(math.exp(loss), rel=1e-4)


def test_the_loss_is_that_of_each_sentence_alone(model):
    """Padding neither adds to the loss nor is seen."""
    alone = [evaluate(model, [labels], 30) * (len(labels) + 1) for labels in DEV]
    assert evaluate(model, DEV, 1000) == pytest.approx(sum(alone) / sum(len(x) + 1 for x in DEV), rel=1e-6)


def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    through = train_language_model(TRAIN, DEV, len(PIECES), SMALL, 1, tmp_path / "a.safetensors")
    save, saved = training._save, []

    def save_and_stop(*args):
        save(*args)
        saved.append(args)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", save_and_stop)
    state = tmp_path / "b.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_language_model(TRAIN, DEV, len(PIECES), SMALL, 1, state)
    resumed = train_language_model(TRAIN, DEV, len(PIECES), SMALL, 1, state)
    assert len(saved) == SMALL.max_epochs  # two before, two after
    for name, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_state_of_other_text_is_not_used(tmp_path):
    state = tmp_path / "state.safetensors"
    train_language_model(TRAIN, DEV, len(PIECES), SMALL, 1, state)
    other = train_language_model(TRAIN[:20], DEV, len(PIECES), SMALL, 1, state)
    fresh = train_language_model(TRAIN[:20], DEV, len(PIECES), SMALL, 1, tmp_path / "fresh.safetensors")
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("train, dev", [([], DEV), (TRAIN, [])])
def test_no_text_is_refused(tmp_path, train, dev):
    with pytest.raises(UserError, match="there is no text"):
        train_language_model(train, dev, len(PIECES), SMALL, 1, tmp_path / "state.safetensors")


def test_other_tokens_are_refused(loaded, tmp_path):
    with pytest.raises(UserError, match="other tokens"):
        load_language_model(tmp_path / "lm.onnx", ["<blk>", "<unk>", "b", "a", "c"])


def test_another_network_is_refused(tmp_path):
    from residualformer.export.builder import Graph

    g = Graph()
    g.output("y", g.input("x", "float32", ["N", 2]), "float32", ["N", 2])
    (tmp_path / "lm.onnx").write_bytes(g.model("other", {}).SerializeToString())
    with pytest.raises(UserError, match="no language model"):
        load_language_model(tmp_path / "lm.onnx", PIECES)
    (tmp_path / "lm.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_language_model(tmp_path / "lm.onnx", PIECES)
