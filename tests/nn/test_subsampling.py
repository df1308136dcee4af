"""The front end: in training it computes what it computes at run time."""

from __future__ import annotations

import pytest
import torch

from residualformer.nn.subsampling import ConvSubsampling


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_no_past_is_a_past_of_zeros_with_and_without_gradients(groups, stride):
    torch.manual_seed(0)
    front = ConvSubsampling(10, 3, 5, stride).double()
    x = torch.randn(2, groups * stride, 10, dtype=torch.float64)
    zeros = [torch.zeros(2, *shape, dtype=torch.float64) for shape in front.cache_shapes]
    results = []
    for past in (None, zeros):
        out, caches = front(x, past)
        results.append([out, *caches, *torch.autograd.grad(out.square().sum(), list(front.parameters()))])
        with torch.no_grad():
            out, caches = front(x, past)
            results.append([out, *caches, *results[-1][1 + len(caches) :]])
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(results[0][1], x[:, None, -1:])


@pytest.mark.parametrize("stride", [4, 8])
@torch.no_grad()
def test_an_encoder_frame_sees_its_group_and_one_frame_less_than_a_group_before(stride):
    """Frame t depends on feature frames stride t - (stride - 1) ... stride t + (stride - 1), and on no others."""
    torch.manual_seed(0)
    front = ConvSubsampling(10, 3, 5, stride).double()
    x, t = torch.randn(1, 5 * stride, 10, dtype=torch.float64), 2
    before, _ = front(x)
    matters = []
    for frame in range(x.size(1)):
        other = x.clone()
        other[:, frame] += 100
        if not torch.equal(front(other)[0][:, t], before[:, t]):
            matters.append(frame)
    assert matters == list(range(stride * t - stride + 1, stride * t + stride))
