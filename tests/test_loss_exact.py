"""The exact loss against the sum over all paths, written out."""

import pytest
import torch

from residualformer.loss import rnnt_loss
from tests.loss_paths import TYPES, case, loss_by_paths


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("delay_penalty", [0.0, 0.3])
def test_value_and_gradient_are_those_of_all_paths(rnnt_type, delay_penalty):
    # float64, sums of at most a few hundred paths: 1e-12 leaves room for the order of summation only
    logits, symbols, boundary = case(seed=1)
    logits.requires_grad_()
    expected = loss_by_paths(logits, symbols, 0, boundary, rnnt_type, delay_penalty)
    loss = rnnt_loss(logits, symbols, 0, boundary, rnnt_type, delay_penalty, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.7], dtype=torch.float64)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), logits)
    (grad,) = torch.autograd.grad((loss * weights).sum(), logits)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)
