"""An arbitrator of depths: what it sees, streaming equals the masked pass with its decisions, gradients reach it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.depth_encoders import BINS, GROUPS, LENGTHS, SETTINGS, make

from residualformer.config.schema import ArbitratorConfig
from residualformer.nn.arbitrator import GumbelSoftmax, one_hot, uniform_branch

ARBITRATOR = ArbitratorConfig(hidden_dim=8, num_layers=2)


def stream(encoder, features, lengths):
    """The output (N, chunks * C, D) and the depths (N, chunks) that `step` gives until the longest stream ends."""
    state, pieces, branches = encoder.init_state(len(features)), [], []
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, features.size(1), encoder.shift):
        window, sizes = padded[:, start : start + encoder.window], (lengths - start).clamp(0, encoder.window)
        out, state = encoder.step(window, sizes, state)
        pieces.append(out)
        branches.append(state.branch)
    return torch.cat(pieces, 1), torch.stack(branches, 1)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@torch.no_grad()
def test_streaming_equals_the_masked_pass_with_the_arbitrators_decisions(setting, groups):
    found = []
    for seed in range(5):
        encoder = make(setting, groups, arbitrator=ARBITRATOR, seed=seed)
        features = 3 * torch.randn(4, 131, BINS)
        full, lengths = encoder(features, LENGTHS)
        decided = encoder.encode(features, LENGTHS, one_hot).decisions.argmax(2)
        pieces, branches = stream(encoder, features, LENGTHS)
        for n, (length, steps) in enumerate(zip(lengths, encoder.num_steps(LENGTHS), strict=True)):
            assert torch.equal(branches[n, :steps], decided[n, :steps])
            # fp32: the same sums in another order, five layers deep
            torch.testing.assert_close(pieces[n, :length], full[n, :length], rtol=0, atol=1e-5)
            found += branches[n, :steps].tolist()
    assert set(found) == set(range(encoder.num_branches))


@torch.no_grad()
def test_one_hot_decisions_are_the_depths_that_are_given_to_the_bit():
    encoder, features = make(arbitrator=ARBITRATOR), 3 * torch.randn(4, 131, BINS)
    encoded = encoder.encode(features, LENGTHS, one_hot)
    given = encoder.encode_through(features, LENGTHS, encoded.decisions.argmax(2))
    assert torch.equal(encoded.frames, given) and torch.equal(encoder(features, LENGTHS)[0], given)
    assert encoded.decisions.shape == (4, 9, 3) == encoded.arbitrator_logits.shape
    assert torch.equal(encoder.arbitrate(features, LENGTHS), encoded.arbitrator_logits)


@torch.no_grad()
def test_it_sees_the_frames_of_its_own_chunk_and_of_those_before():
    encoder, features = make(arbitrator=ARBITRATOR), 3 * torch.randn(1, 160, BINS)
    lengths, logits = torch.tensor([160]), encoder.arbitrate(features, torch.tensor([160]))
    for frame in (0, 15, 16, 80, 159):  # of features; a chunk is 16 of them
        changed = features.clone()
        changed[:, frame] += 5
        differs = (encoder.arbitrate(changed, lengths) - logits).abs().amax(2)[0] > 1e-6
        # Of a chunk's last frame the next one sees a bit as well: each convolution looks one frame back.
        assert not differs[: frame // 16].any() and differs[frame // 16]
    for layer in encoder.layers:
        layer.norm1.weight.zero_()
    assert torch.equal(encoder.arbitrate(features, lengths), logits)  # no layer is within what it sees


def test_gradients_reach_the_arbitrator_through_the_sampler():
    encoder, features = make(arbitrator=ARBITRATOR), 3 * torch.randn(4, 131, BINS)
    parameters = dict(encoder.arbitrator.named_parameters())
    for sampler, learns in ((GumbelSoftmax(1.0), True), (GumbelSoftmax(0.5, 0.0), True), (uniform_branch, False)):
        encoder.zero_grad()
        encoded = encoder.encode(features, LENGTHS, sampler)
        (encoded.frames * torch.randn_like(encoded.frames)).sum().backward()
        touched = {name for name, each in parameters.items() if each.grad is not None and each.grad.abs().max() > 0}
        assert touched == (set(parameters) if learns else set())
        assert encoder.subsampling.out.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_given_depth_does_not_ask_it_and_a_step_leaves_its_state_alone():
    encoder, features = make(arbitrator=ARBITRATOR), 3 * torch.randn(2, 64, BINS)
    sizes, window = torch.full((2,), encoder.window), features[:, : encoder.window]
    first = encoder.init_state(2)
    _, given = encoder.step_through(window, sizes, first, torch.tensor([2, 1]))
    assert given.branch.tolist() == [2, 1] and given.arbitrator == first.arbitrator
    _, state = encoder.step(window, sizes, first)
    kept = dataclasses.replace(state, arbitrator=[(h.clone(), c.clone()) for h, c in state.arbitrator])
    once, again = (encoder.step(window, sizes, state)[0] for _ in range(2))
    assert torch.equal(once, again)
    for now, then in zip(state.arbitrator, kept.arbitrator, strict=True):
        assert torch.equal(now[0], then[0]) and torch.equal(now[1], then[1])
