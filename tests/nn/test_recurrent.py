"""The recurrent encoder: streaming equals the full pass, branches combine by eq. 2, counts are the paper's."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig
from residualformer.config.schema import EncoderConfig
from residualformer.kernels.recurrent import gru_cell, lstm_cell
from residualformer.nn.arbitrator import GumbelSoftmax, one_hot, uniform_branch
from residualformer.nn.branches import SparseWeight
from residualformer.nn.recurrent import RecurrentEncoder

BINS, STACK, DIM, LAYERS = 10, 3, 16, 3
ONE = [("none", []), ("sparse", [0.5]), ("factorised", [0.3])]
SEVERAL = [("sparse", [0.2, 0.7]), ("factorised", [0.2, 0.6]), ("factorised", [0.2, 0.5, 0.7])]
LOOKS = list(itertools.product((False, True), (False, True), (0, 1)))  # use_state, use_decision, delay


def make(kind="lstm", method="none", compression=(), look=(False, False, 0), dropout=0.0) -> RecurrentEncoder:
    """A small encoder in eval mode: masks as compressed as they say, and an arbitrator that changes its mind."""
    torch.manual_seed(1)
    config = EncoderConfig(kind=kind, num_layers=LAYERS, dim=DIM, stack_frames=STACK, dropout=dropout)
    arbitrator = ArbitratorConfig(8, 2, *look)
    encoder = RecurrentEncoder(config, AmNetConfig(method, list(compression), arbitrator=arbitrator), BINS).eval()
    for layer in encoder.layers if method == "sparse" else ():
        for weights in (layer.input, layer.recurrent):
            for weight, share in zip(weights, compression, strict=True):
                weight.mask.copy_(torch.rand_like(weight.W) >= share)
    if encoder.arbitrator is not None:
        for weight in (*encoder.arbitrator.input, encoder.arbitrator.out.weight):
            torch.nn.init.normal_(weight, std=2)
        for bias in (*encoder.arbitrator.bias, encoder.arbitrator.out.bias):
            torch.nn.init.zeros_(bias)
    torch.manual_seed(2)
    encoder.mean.normal_(), encoder.std.uniform_(0.5, 2)
    return encoder


def batch(streams=4, frames=61):
    torch.manual_seed(4)
    return torch.randn(streams, frames, BINS), torch.tensor([frames, 1, 30, 47][:streams])


def stream(encoder, features, lengths):
    """Frame by frame: (N, T', H) and the branches taken, (N, T')."""
    state, frames, branches = encoder.init_state(len(features)), [], []
    padded = F.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, features.size(1), encoder.shift):
        window = padded[:, start : start + encoder.window]
        out, state = encoder.step(window, (lengths - start).clamp(0, encoder.window), state)
        frames.append(out), branches.append(state.branch)
    return torch.cat(frames, 1), torch.stack(branches, 1)


def stacked(encoder, features):
    """The frames that layers see, of features that need no padding."""
    x = (features - encoder.mean) / encoder.std
    return x.reshape(len(x), -1, STACK * BINS)


def by_hand(encoder, features, decisions):
    """Eq. 2 frame by frame, dense matrix by dense matrix, for given decisions (N, T', B)."""
    x, cell = stacked(encoder, features), encoder.config.kind
    states = copy.copy(encoder.init_state(len(x)).layers)
    frames = []
    for t in range(x.size(1)):
        inputs = [x[:, t]] * encoder.num_branches
        for index, layer in enumerate(encoder.layers):
            made, (h, *c) = [], states[index]
            for n, below in enumerate(inputs):
                bias = layer.bias if layer.bias.dim() == 1 else layer.bias[n]
                z, recurrent = below @ layer.input.dense(n).T + bias, h @ layer.recurrent.dense(n).T
                made.append((gru_cell(z, recurrent, h),) if cell == "gru" else lstm_cell(z + recurrent, *c))
            d = decisions[:, t].unbind(1)
            states[index] = tuple(sum(d[n][:, None] * part[n] for n in range(len(d))) for part in zip(*made))
            inputs = [part[0] for part in made]
        frames.append(states[-1][0])
    return torch.stack(frames, 1)


def check_streaming(encoder):
    features, lengths = batch()
    full = encoder.encode(features, lengths, one_hot)
    frames, branches = stream(encoder, features, lengths)
    assert full.lengths.tolist() == [21, 1, 10, 16]
    for n, length in enumerate(full.lengths):
        # fp32: the same sums in another order, three layers deep
        torch.testing.assert_close(frames[n, :length], full.frames[n, :length], rtol=0, atol=1e-5)
        if full.decisions is not None:
            assert torch.equal(branches[n, :length], full.decisions[n, :length].argmax(1))
    return branches


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("method, compression", ONE)
@torch.no_grad()
def test_streaming_equals_the_full_pass_of_one_branch(kind, method, compression):
    check_streaming(make(kind, method, compression))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("method, compression", SEVERAL)
@pytest.mark.parametrize("look", LOOKS)
@torch.no_grad()
def test_streaming_equals_the_full_pass_of_several(kind, method, compression, look):
    branches = check_streaming(make(kind, method, compression, look))
    # otherwise little is tested: streams change branches, and are on different ones at a time
    assert any(len(row.unique()) > 1 for row in branches) and any(len(frame.unique()) > 1 for frame in branches.T)


@torch.no_grad()
def test_streams_of_a_batch_may_start_at_different_times():
    encoder = make("lstm", *SEVERAL[0], look=(True, True, 1))
    features, lengths = batch(2, 30)
    alone = [stream(encoder, features[n : n + 1], torch.tensor([30]))[0] for n in range(2)]
    full = torch.tensor([STACK])
    _, old = encoder.step(features[:1, :STACK], full, encoder.init_state(1))
    new = encoder.init_state(1)
    joined = encoder.init_state(2)
    joined.layers = [tuple(map(torch.cat, zip(a, b))) for a, b in zip(old.layers, new.layers, strict=True)]
    joined.arbitrator = [tuple(map(torch.cat, zip(a, b))) for a, b in zip(old.arbitrator, new.arbitrator, strict=True)]
    joined.decision = torch.cat([old.decision, new.decision])
    joined.branch = torch.cat([old.branch, new.branch])
    window = torch.stack([features[0, STACK : 2 * STACK], features[1, :STACK]])
    out, _ = encoder.step(window, full.expand(2), joined)
    torch.testing.assert_close(out[:, 0], torch.stack([alone[0][0, 1], alone[1][0, 0]]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_step_leaves_its_state_alone():
    encoder = make("lstm", *SEVERAL[1], look=(True, True, 1))
    features, lengths = batch()
    _, state = encoder.step(features[:, :STACK], lengths.clamp(max=STACK), encoder.init_state(4))
    before = copy.deepcopy(state)
    first, _ = encoder.step(features[:, STACK : 2 * STACK], torch.full((4,), STACK), state)
    again, _ = encoder.step(features[:, STACK : 2 * STACK], torch.full((4,), STACK), state)
    assert torch.equal(first, again) and torch.equal(state.decision, before.decision)
    for now, then in zip(state.layers + state.arbitrator, before.layers + before.arbitrator, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@torch.no_grad()
def test_the_plain_encoder_is_torchs_layers_on_stacked_frames(kind):
    encoder = make(kind)
    reference = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](STACK * BINS, DIM, LAYERS, batch_first=True)
    for index, layer in enumerate(encoder.layers):
        getattr(reference, f"weight_ih_l{index}").copy_(layer.input.W)
        getattr(reference, f"weight_hh_l{index}").copy_(layer.recurrent.W)
        getattr(reference, f"bias_ih_l{index}").copy_(layer.bias)
        getattr(reference, f"bias_hh_l{index}").zero_()
    features, lengths = batch()
    frames, sizes = encoder(features, lengths)
    for n, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        alone = F.pad((features[n : n + 1, :length] - encoder.mean) / encoder.std, (0, 0, 0, -int(length) % STACK))
        expected = reference(alone.reshape(1, -1, STACK * BINS))[0]
        torch.testing.assert_close(frames[n, :size], expected[0], rtol=0, atol=1e-6)  # fp32, other batch sizes


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("method, compression", SEVERAL)
@pytest.mark.parametrize("soft", [False, True])
@torch.no_grad()
def test_branches_combine_by_eq_2(kind, method, compression, soft):
    """With one-hot decisions this is: the chosen branch alone decides on the states."""
    encoder, features = make(kind, method, compression), batch(2, 30)[0]
    draw = GumbelSoftmax(1.0) if soft else uniform_branch
    decisions = draw(torch.zeros(2, 10, len(compression)))
    encoded = encoder.encode(features, torch.tensor([30, 30]), lambda logits: decisions)
    expected = by_hand(encoder, features, decisions)
    torch.testing.assert_close(encoded.frames, expected, rtol=0, atol=1e-5)  # fp32, three layers
    assert encoded.decisions is decisions


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("method, compression", [("sparse", [0.0] * 2), ("factorised", [0.3] * 3)])
def test_equal_branches_are_the_single_one_whatever_the_decisions(kind, method, compression):
    encoder, single = make(kind, method, compression), make(kind, method, compression[:1])
    features, lengths = batch()
    with torch.no_grad():
        for layer, alone in zip(encoder.layers, single.layers, strict=True):
            if method == "factorised":
                alone.load_state_dict(layer.state_dict())
                continue
            for n in range(len(compression)):
                layer.input[n].W.copy_(alone.input[0].W), layer.recurrent[n].W.copy_(alone.recurrent[0].W)
                layer.bias[n] = alone.bias[0]
    expected, _ = single(features, lengths)
    for sampler in (one_hot, uniform_branch, GumbelSoftmax(2.0)):
        # fp32: weights that sum to one but for rounding, three layers
        torch.testing.assert_close(encoder.encode(features, lengths, sampler).frames, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_sparse_without_zeros_is_the_plain_encoder():
    plain, sparse = make(), make(method="sparse", compression=[0.0])
    for a, b in zip(plain.layers, sparse.layers, strict=True):
        b.input[0].W.copy_(a.input.W), b.recurrent[0].W.copy_(a.recurrent.W), b.bias[0].copy_(a.bias)
    assert torch.equal(plain(*batch())[0], sparse(*batch())[0])


@torch.no_grad()
def test_delay_moves_decisions_on_by_a_frame():
    now, later = make("lstm", *SEVERAL[0]), make("lstm", *SEVERAL[0], look=(False, False, 1))
    first, second = (encoder.encode(*batch(), one_hot) for encoder in (now, later))
    assert torch.equal(first.arbitrator_logits, second.arbitrator_logits)
    assert torch.equal(second.decisions[:, 1:], first.decisions[:, :-1])
    assert torch.equal(second.decisions[:, 0], torch.tensor([[1.0, 0.0]] * 4))  # slow


@torch.no_grad()
def test_the_sampler_is_for_training_alone():
    encoder = make("lstm", *SEVERAL[0])
    encoder.sampler = uniform_branch
    features, lengths = batch()
    hard = encoder.encode(features, lengths, one_hot).frames
    assert torch.equal(encoder(features, lengths)[0], hard)
    torch.manual_seed(7)
    drawn = encoder.train()(features, lengths)[0]
    torch.manual_seed(7)
    assert torch.equal(drawn, encoder.encode(features, lengths, uniform_branch).frames)
    assert not torch.equal(drawn, hard)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("method, compression", ONE + SEVERAL)
@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]])
def test_every_parameter_learns_but_masked_weights(kind, method, compression, look):
    encoder = make(kind, method, compression, look, dropout=0.1).train()
    encoder.sampler = GumbelSoftmax(5.0)
    encoder(*batch())[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())
    for weight in (m for m in encoder.modules() if isinstance(m, SparseWeight)):
        assert not weight.W.grad[~weight.mask].any()


@pytest.mark.parametrize("method, compression", ONE + SEVERAL)
def test_bf16_autocast_agrees(method, compression):
    """bf16 keeps 8 bits, each product is off by 2^-9; decisions are given, lest a rounding chooses another branch."""
    encoder = make("lstm", method, compression)
    features, lengths = batch()
    decisions = uniform_branch(torch.zeros(4, 21, max(2, len(compression))))
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            frames = encoder.encode(features, lengths, lambda logits: decisions).frames.float()
        results.append((frames, *torch.autograd.grad(frames.square().sum(), list(encoder.layers.parameters()))))
    for full, half in zip(*results, strict=True):
        assert (full - half).norm() <= 0.03 * full.norm()


def paper(method="none", compression=()) -> RecurrentEncoder:
    config = EncoderConfig(kind="lstm", num_layers=5, dim=1024, stack_frames=3)
    with torch.device("meta"):
        return RecurrentEncoder(config, AmNetConfig(method, list(compression)), 64)


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_counts_of_the_paper():
    encoder = paper()
    weights = 4096 * (192 + 1024) + 4 * 4096 * 2048
    assert count(encoder) == weights + 5 * 4096 == 38_555_648
    assert round((count(encoder) + 1024 * 4097 + 4097) / 1e6, 3) == 42.755
    assert encoder.branch_flops() == [weights] and encoder.arbitrator_flops() == 0
    two = paper("factorised", [0.35, 0.6])
    assert two.arbitrator_flops() == 295_168
    for flops, compression in zip(two.branch_flops(), [0.35, 0.6], strict=True):
        # ranks are whole numbers: each of ten matrices falls short by less than one rank
        assert (1 - compression) * weights - 5 * (2 * 4096 + 2 * 1024) < flops <= (1 - compression) * weights


def test_factors_are_saved_once_and_masks_with_their_weights():
    names = list(make("lstm", "factorised", [0.2, 0.6]).layers[0].state_dict())
    assert names == ["bias", "input.P1", "input.P2", "recurrent.P1", "recurrent.P2"]
    alone, both = (paper("factorised", c) for c in ([0.35], [0.35, 0.6]))
    assert count(both) == count(alone) + 296_194
    names = list(make("lstm", "sparse", [0.2, 0.6]).layers[0].input.state_dict())
    assert names == ["0.W", "0.mask", "1.W", "1.mask"]


def test_flops_follow_the_masks():
    encoder = make("gru", "sparse", [0.2, 0.7])
    masks = [
        [weights[n].mask for layer in encoder.layers for weights in (layer.input, layer.recurrent)] for n in range(2)
    ]
    assert encoder.branch_flops() == [sum(float(mask.sum()) for mask in branch) for branch in masks]


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_matrices_are_the_weights_of_the_layers(kind, gates):
    encoder = make(kind)
    expected = [p for name, p in encoder.layers.named_parameters() if name.endswith(".W")]
    matrices = encoder.matrices()
    assert {id(p) for p, _ in matrices} == {id(p) for p in expected} and len(matrices) == len(expected)
    assert {stacked for _, stacked in matrices} == {gates}
