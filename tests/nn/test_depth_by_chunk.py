"""Depth by chunk: streaming equals the masked pass at every sequence of decisions; soft decisions mix."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.depth_encoders import BINS, GROUPS, LENGTHS, SETTINGS, make
from support.streaming import stream_through

from residualformer.config.amnet import ArbitratorConfig
from residualformer.nn.transformer import TransformerEncoder


def drawn(encoder: TransformerEncoder, seed: int, frames: int = 131) -> torch.Tensor:
    """A random depth for each chunk, (4, chunks): now and then the same for all streams."""
    generator = torch.Generator().manual_seed(seed)
    chunks, count = -(-frames // encoder.shift), len(encoder.served)
    branches = torch.randint(count, (4, chunks), generator=generator)
    together = torch.rand(chunks, generator=generator) < 0.3
    return torch.where(together, branches[:1], branches)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@torch.no_grad()
def test_streaming_equals_the_masked_pass_at_random_sequences_of_depths(setting, groups):
    encoder = make(setting, groups)
    features = torch.randn(4, 131, BINS)
    outputs = []
    for seed in range(8):
        branches = drawn(encoder, seed)
        full = encoder.encode_through(features, LENGTHS, branches)
        pieces = stream_through(encoder, features, LENGTHS, branches)
        for n, length in enumerate(encoder.output_lengths(LENGTHS)):
            # fp32: the same sums in another order, five layers deep
            torch.testing.assert_close(pieces[n, :length], full[n, :length], rtol=0, atol=1e-5)
        outputs.append(full)
    assert all((a - b).abs().max() > 0.1 for a, b in zip(outputs, outputs[1:]))


@torch.no_grad()
def test_one_depth_for_all_chunks_is_the_fixed_depth_to_the_bit():
    encoder, features = make(), torch.randn(4, 131, BINS)
    for number, loops in enumerate(encoder.served):
        branches = torch.full_like(drawn(encoder, 0), number)
        fixed, _ = encoder.encode_at(features, LENGTHS, loops)
        assert torch.equal(encoder.encode_through(features, LENGTHS, branches), fixed)


@torch.no_grad()
def test_a_chunk_looks_at_what_passed_by_the_layers_that_were_not_run():
    """By hand, of one stream, from the definition: all frames so far, layer by layer, without cache and mask."""
    encoder = make((160, None, 0), (3, [3, 1]), residual=False)
    features, branches = torch.randn(1, 96, BINS), torch.tensor([[1, 0, 1, 1, 0, 0]])
    found = encoder.encode_through(features, torch.tensor([96]), branches)[0]
    for chunk in range(6):
        upto = (chunk + 1) * encoder.shift  # what is to come changes nothing, and neither does how it is decided
        later = torch.cat([branches[:, : chunk + 1], 1 - branches[:, chunk + 1 :]], 1)
        cut = encoder.encode_through(features[:, :upto], torch.tensor([upto]), later[:, : chunk + 1])[0]
        torch.testing.assert_close(found[: len(cut)], cut, rtol=0, atol=1e-5)
    own = encoder.encode_through(features, torch.tensor([96]), branches.clone().index_fill_(1, torch.tensor([0]), 0))[0]
    assert (own[4:8] - found[4:8]).abs().max() > 0.01  # a deeper first chunk is seen by the second


@torch.no_grad()
def test_soft_decisions_mix_and_their_gradient_is_that_of_differences():
    encoder = make(arbitrator=ArbitratorConfig(4, 1)).double()
    encoder.mean, encoder.std = encoder.mean.double(), encoder.std.double()
    features = torch.randn(4, 131, BINS, dtype=torch.float64)
    decisions = torch.rand(4, -(-131 // encoder.shift), 3, dtype=torch.float64).softmax(2)
    weights = torch.randn(4, 33, 16, dtype=torch.float64)

    def loss(given):
        return (weights * encoder.encode(features, LENGTHS, lambda logits: given).frames).sum()

    with torch.enable_grad():
        soft = decisions.clone().requires_grad_()
        loss(soft).backward()
    step = torch.randn_like(decisions)
    step -= step.mean(2, keepdim=True)  # the sum over depths stays one
    ends = [loss(decisions + h * step) for h in (1e-6, -1e-6)]
    assert float((soft.grad * step).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5)


@torch.no_grad()
def test_a_step_leaves_its_state_alone():
    encoder, features = make(), torch.randn(4, 64, BINS)
    sizes, branch = torch.full((4,), encoder.window), torch.tensor([0, 2, 1, 2])
    _, state = encoder.step_through(features[:, : encoder.window], sizes, encoder.init_state(4), branch)
    kept = dataclasses.replace(state, past=[(k.clone(), v.clone()) for k, v in state.past])
    window = features[:, encoder.shift : encoder.shift + encoder.window]
    first, _ = encoder.step_through(window, sizes, state, branch.flip(0))
    again, _ = encoder.step_through(window, sizes, state, branch.flip(0))
    assert torch.equal(first, again)
    for now, then in zip(state.past, kept.past, strict=True):
        assert torch.equal(now[0], then[0]) and torch.equal(now[1], then[1])
