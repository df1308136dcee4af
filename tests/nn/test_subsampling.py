"""The front end: in training it computes what it computes at run time."""

from __future__ import annotations

import pytest
import torch

from residualformer.nn.subsampling import ConvSubsampling


@pytest.mark.parametrize("num_frames", [4, 8, 20])
def test_no_past_is_a_past_of_zeros_with_and_without_gradients(num_frames):
    torch.manual_seed(0)
    front = ConvSubsampling(10, 3, 5).double()
    x = torch.randn(2, num_frames, 10, dtype=torch.float64)
    caches = torch.zeros(2, 1, 1, 10, dtype=torch.float64), torch.zeros(2, 3, 1, 5, dtype=torch.float64)
    results = []
    for past in ((), caches):
        out, last, last_hidden = front(x, *past)
        results.append([out, last, last_hidden, *torch.autograd.grad(out.square().sum(), list(front.parameters()))])
        with torch.no_grad():
            results.append([*front(x, *past), *results[-1][3:]])
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(results[0][1], x[:, None, -1:])
