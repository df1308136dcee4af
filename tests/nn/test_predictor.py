"""Predictors: label by label equals the whole history."""

import pytest
import torch

from residualformer.config.schema import PredictorConfig
from residualformer.constants import BLANK
from residualformer.nn.predictor import LSTMPredictor, StatelessPredictor

PREDICTORS = {"lstm": LSTMPredictor, "stateless": StatelessPredictor}


@pytest.mark.parametrize("kind", sorted(PREDICTORS))
@torch.no_grad()
def test_step_equals_forward(kind):
    torch.manual_seed(0)
    config = PredictorConfig(kind=kind, embedding_dim=6, hidden_dim=8, num_layers=2, context_size=3)
    predictor = PREDICTORS[kind](11, config).eval()
    labels = torch.randint(1, 11, (3, 7))
    whole = predictor(labels)
    state, steps = predictor.init_state(3), []
    for label in torch.nn.functional.pad(labels, (1, 0), value=BLANK).unbind(1):
        out, state = predictor.step(label, state)
        assert all(part.size(0) == 3 for part in state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=0, atol=1e-6)  # fp32 sums in another order


@torch.no_grad()
def test_stateless_forgets_what_is_out_of_its_context():
    config = PredictorConfig(kind="stateless", embedding_dim=6, hidden_dim=8, context_size=2)
    predictor = PREDICTORS["stateless"](11, config).eval()
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[9, 9, 3, 4]])
    assert torch.equal(predictor(one)[:, 4], predictor(other)[:, 4])
    assert not torch.equal(predictor(one)[:, 3], predictor(other)[:, 3])


def test_hidden_labels_only_in_training():
    config = PredictorConfig(embedding_dim=4, hidden_dim=4, num_layers=1, dropout=0.0, token_dropout=1.0)
    predictor = PREDICTORS["lstm"](5, config)
    one, other = torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
    assert torch.equal(predictor.train()(one), predictor(other))
    assert not torch.equal(predictor.eval()(one), predictor(other))
