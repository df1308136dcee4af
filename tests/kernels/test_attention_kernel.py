"""Self-attention as it is trained on a CPU against the plain one, and its gradients against finite differences."""

from __future__ import annotations

import torch

from residualformer.kernels import attention
from residualformer.kernels.attention import AttentionMask, plain_self_attention, self_attention
from residualformer.nn.attention import rotary_table

N, T, H, D = 2, 7, 2, 12


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, AttentionMask, tuple[torch.Tensor, torch.Tensor], int]:
    """Projections (N, T', 3 D) and the other arguments of `self_attention`."""
    torch.manual_seed(0)
    mask = AttentionMask((torch.rand(N, 1, T, T) > 0.5) | torch.eye(T, dtype=torch.bool))
    cos, sin = rotary_table(T, D // H, torch.device("cpu"))
    return torch.randn(N, T, 3 * D, dtype=dtype, requires_grad=True), mask, (cos.to(dtype), sin.to(dtype)), H


def test_it_equals_the_plain_one_with_its_gradients():
    arguments = inputs(torch.float64)
    weights = torch.randn(N, T, D, dtype=torch.float64)
    results = []
    for function in (plain_self_attention, self_attention):
        y = function(*arguments)
        results.append((y, *torch.autograd.grad((y * weights).sum(), arguments[0])))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)  # float64 sums of some ten numbers around 1


def test_its_gradients_are_those_of_finite_differences():
    torch.autograd.gradcheck(self_attention, inputs(torch.float64))


def test_in_bf16_it_is_as_far_from_the_exact_result_as_the_plain_one():
    exact_qkv, *rest = inputs(torch.float64)
    qkv = exact_qkv.detach().bfloat16().requires_grad_()
    exact = plain_self_attention(qkv.double(), *rest)
    found, other = self_attention(qkv, *rest), plain_self_attention(qkv, *rest)
    assert found.dtype == torch.bfloat16
    errors = [(each.double() - exact).square().mean().sqrt() for each in (found, other)]
    assert errors[0] < 1.5 * errors[1] < 0.03  # 8 bits of 1 are 0.004, and q, k, scores, weights are rounded


def test_only_training_takes_the_fast_path(monkeypatch):
    qkv, *rest = inputs(torch.float64)
    assert "_SelfAttention" in self_attention(qkv, *rest).grad_fn.name()
    monkeypatch.setattr(attention, "plain_self_attention", lambda *arguments: "plain")
    with torch.no_grad():
        assert self_attention(qkv * 1, *rest) == "plain"
    assert self_attention(qkv.detach(), *rest) == "plain"


def test_a_mask_becomes_numbers_for_every_head():
    allowed = torch.tensor([[[[True, False], [True, True]]], [[[True, True], [False, True]]]])
    mask = AttentionMask(allowed.clone())
    numbers = mask.scores(3, torch.float32)
    assert numbers.shape == (6, 2, 2) and set(numbers.unique().tolist()) == {float("-inf"), 0.0}
    for row in range(6):
        assert torch.equal(numbers[row] == 0, allowed[row // 3, 0])
    assert torch.equal(mask.allowed, allowed)
    assert mask.scores(3, torch.float32) is numbers and mask.scores(3, torch.float64).dtype == torch.float64
