"""Shallow fusion and the internal language model in both beam searches, against an enumeration."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.language_models import TRIGRAMS, reference
from support.plain_search import all_alignments
from support.torch_network import TorchNetwork, assert_equal, in_pieces
from support.transducers import Oracle, random_frames, random_model

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import numbered
from residualformer.decode.beam import beam_search
from residualformer.decode.fusion import internal_lm, language_model
from residualformer.runtime.beam import BeamSearch
from residualformer.runtime.fusion import internal_lm as internal_lm_without_torch
from residualformer.runtime.fusion import language_model as language_model_without_torch

PIECES = ["<blk>", "<unk>", "a", "b", "c"]


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(TRIGRAMS, encoding="utf-8")
    return str(path)


def bundle(model):
    return SimpleNamespace(model=model, tokenizer=SimpleNamespace(pieces=PIECES))


@torch.no_grad()
def internal(model, labels, label):
    """log P of `label` after `labels` by predictor and joiner with a projected encoder of zero, without the blank."""
    out = model.predictor(torch.tensor([list(labels)], dtype=torch.int64))[0, -1]
    logits = model.joiner.output(model.joiner.project_predictor(out))[1:]
    return float(logits.log_softmax(-1)[label - 1])


def added(model, labels, settings):
    words = [PIECES[label] for label in labels]
    lm = sum(reference(TRIGRAMS, ["<s>", *words[:i]], word) for i, word in enumerate([*words, "</s>"]))
    ilm = sum(internal(model, labels[:i], label) for i, label in enumerate(labels))
    return settings.lm_weight * lm - settings.ilm_weight * ilm


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize("ilm_weight", [0.0, 0.4])
def test_an_unpruned_search_finds_the_best_of_model_and_language_model(arpa, kind, ilm_weight):
    model, (encoded, lengths) = random_model(5, seed=2, sharpness=2.0, kind=kind), random_frames([2], seed=7)
    settings = DecodeConfig(beam=1000, nbest=1000, max_symbols=2, lm=arpa, lm_weight=0.7, ilm_weight=ilm_weight)
    scorer = language_model(bundle(model), settings).scorer()
    (found,) = beam_search(model, encoded, lengths, settings, [scorer])
    expected = [(y, p, added(model, y, settings)) for y, p in all_alignments(Oracle(model, encoded[0]), 5, 2)]
    expected.sort(key=lambda each: -each[1] - each[2])
    assert [tuple(h.tokens) for h in found] == [labels for labels, *_ in expected]
    # scorers are float32: 1e-6 of some tens
    assert [h.context for h in found] == pytest.approx([context for *_, context in expected], abs=1e-4)


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_the_runtime_finds_the_same(arpa, kind, blank):
    model, (encoded, lengths) = random_model(5, seed=3, sharpness=2.0, kind=kind), random_frames([6, 4], seed=5)
    settings = DecodeConfig(beam=4, nbest=4, lm=arpa, lm_weight=0.5, ilm_weight=0.3)
    context = language_model(bundle(model), settings)
    found = beam_search(model, encoded, lengths, settings, [context.scorer() for _ in lengths])
    network = TorchNetwork(model) if blank == 0 else BlankLastNetwork(model)
    network.blank, network.pieces = blank, [*PIECES[1:], *PIECES[:1]] if blank else PIECES
    runtime = language_model_without_torch(network, settings)
    scorers = [numbered(runtime.scorer(), blank) for _ in lengths]
    frames = network.project(encoded, lengths)
    states = in_pieces(BeamSearch(network, blank, settings), frames, random.Random(0), scorers)
    for state, nbest in zip(states, found, strict=True):
        again = [h._replace(tokens=[(t + 1) % 5 if blank else t for t in h.tokens]) for h in state.nbest(4, ended=True)]
        assert_equal(again, nbest)


class BlankLastNetwork(TorchNetwork):
    """A network whose labels are numbered as in folders with the blank last."""

    def predict(self, labels, states):
        return super().predict([(label + 1) % 5 for label in labels], states)

    def join(self, encoded, predicted):
        return np.roll(super().join(encoded, predicted), -1, axis=1)


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_the_internal_language_model_is_the_same_without_torch(kind):
    model = random_model(5, seed=1, kind=kind)
    ours, theirs = internal_lm(model).scorer(), internal_lm_without_torch(TorchNetwork(model), 0, 5).scorer()
    states = np.array([0])
    for label in (1, 4, 2):
        expected = [0.0, *(internal(model, [1, 4, 2][: [1, 4, 2].index(label)], k) for k in range(1, 5))]
        np.testing.assert_allclose(ours.scores(states)[0], expected, atol=1e-5)  # float32
        np.testing.assert_allclose(theirs.scores(states), ours.scores(states), atol=1e-6)
        assert math.isclose(np.exp(ours.scores(states)[0, 1:]).sum(), 1, abs_tol=1e-5)
        states = ours.advance(states, np.array([label]))
        assert theirs.advance(states - 1, np.array([label])).tolist() == states.tolist()


def test_greedy_search_and_no_language_model_are_as_they_were(arpa):
    model = random_model(5, seed=1)
    assert language_model(bundle(model), DecodeConfig(kind="greedy", lm=arpa)) is None
    assert language_model(bundle(model), DecodeConfig()) is None
