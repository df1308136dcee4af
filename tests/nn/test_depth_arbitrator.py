"""An arbitrator of depths: what it sees, streaming equals the masked pass with its decisions, gradients reach it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.depth_encoders import BINS, GROUPS, LENGTHS, SETTINGS, make

from residualformer.config.amnet import ArbitratorConfig
from residualformer.nn.arbitrator import GumbelSoftmax, OneBranch, one_hot, uniform_branch

ARBITRATOR = ArbitratorConfig(hidden_dim=8, num_layers=2)
OF_BACKLOG = dataclasses.replace(ARBITRATOR, use_backlog=True)


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


def slow_device(encoder, output: float = 100.0) -> float:
    """Let the encoder run on a device that is late at the full depth and not at the least; return its FLOP/s."""
    full, *_, least = (each + encoder.arbitrator_flops() + output for each in encoder.branch_flops())
    encoder.run_on(25 * (0.4 * full + 0.6 * least), output)
    return 25 * (0.4 * full + 0.6 * least)


@pytest.mark.parametrize("arbitrator", [ARBITRATOR, OF_BACKLOG], ids=["", "backlog"])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@torch.no_grad()
def test_streaming_equals_the_masked_pass_with_the_arbitrators_decisions(setting, groups, arbitrator):
    found = []
    for seed in range(5):
        encoder = make(setting, groups, arbitrator=arbitrator, seed=seed)
        slow_device(encoder)
        features = 3 * torch.randn(4, 131, BINS)
        full, lengths = encoder(features, LENGTHS)
        decided = encoder.encode(features, LENGTHS, one_hot).decisions.argmax(2)
        pieces, branches = stream(encoder, features, LENGTHS)
        for n, (length, steps) in enumerate(zip(lengths, encoder.num_steps(LENGTHS), strict=True)):
            assert torch.equal(branches[n, :steps], decided[n, :steps])
            # fp32: the same sums in another order, five layers deep
            torch.testing.assert_close(pieces[n, :length], full[n, :length], rtol=0, atol=1e-5)
            found += branches[n, :steps].tolist()
    assert len(set(found)) > 1


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


@torch.no_grad()
def test_the_backlog_is_what_the_chunks_before_have_left():
    encoder, features, lengths = make(arbitrator=OF_BACKLOG), 3 * torch.randn(1, 320, BINS), torch.tensor([320])
    mu = slow_device(encoder)
    encoded, arbitrator = encoder.encode(features, lengths, one_hot), encoder.arbitrator
    seen = encoder._seen(encoder.subsampling(encoder.normalize(features, lengths))[0], torch.tensor([80]))
    costs = [4 * (each + encoder.arbitrator_flops() + 100) for each in encoder.branch_flops()]  # of a chunk
    left, state, lefts = 0.0, None, []
    for chunk, depth in enumerate(encoded.decisions[0].argmax(1).tolist()):
        lefts.append(left / (mu * 0.16))  # over what the device does in a chunk's time
        x = torch.cat([seen[:, chunk], torch.tensor([[lefts[-1] + 1]]).log()], 1)
        logits, state = arbitrator(x[:, None], state)
        torch.testing.assert_close(logits[0, 0], encoded.arbitrator_logits[0, chunk], rtol=0, atol=1e-4)
        left = max(left + costs[depth] - mu * 0.16, 0.0)
    assert max(lefts) > 0.2 and min(lefts[5:]) < max(lefts)
    blind = make(arbitrator=ARBITRATOR)
    blind.load_state_dict({name: tensor for name, tensor in encoder.state_dict().items() if "backlog" not in name})
    assert (blind.arbitrate(features, lengths) - encoded.arbitrator_logits).abs().max() > 0.1
    arbitrator.backlog.zero_()  # as it begins
    torch.testing.assert_close(encoder.arbitrate(features, lengths), blind.arbitrate(features, lengths))


def test_one_depth_alone_is_kept_where_it_is_asked_chunk_by_chunk():
    encoder, features = make(arbitrator=OF_BACKLOG), torch.randn(4, 131, BINS)
    for number in range(3):
        taken = encoder.encode(features, LENGTHS, OneBranch(number)).decisions.argmax(2)
        assert torch.equal(taken, torch.full((4, 9), number))


@pytest.mark.parametrize("arbitrator", [ARBITRATOR, OF_BACKLOG], ids=["", "backlog"])
def test_gradients_reach_the_arbitrator_through_the_sampler(arbitrator):
    encoder, features = make(arbitrator=arbitrator), 3 * torch.randn(4, 131, BINS)
    slow_device(encoder)
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
