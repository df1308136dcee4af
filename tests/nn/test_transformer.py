"""The encoder: streaming equals the masked pass, sharing and residuals are what the paper says."""

import copy
import dataclasses

import pytest
import torch

from residualformer.config.schema import EncoderConfig, ResidualConfig
from residualformer.nn.mask import chunk_mask, num_frames, step_mask
from residualformer.nn.sharing import layer_groups
from residualformer.nn.transformer import TransformerEncoder

BINS = 20
# chunk, look-back, look-ahead in ms: one frame, the paper's, no past, all of the past, several chunks ahead
SETTINGS = [(40, 40, 0), (160, 288, 160), (160, 0, 0), (160, None, 0), (80, None, 240), (320, 640, 40), (120, 500, 120)]


def make(chunk=160, back=288, ahead=160, **changes) -> TransformerEncoder:
    """A small encoder, in eval mode, whose every parameter is random (no zero B, D or bias)."""
    torch.manual_seed(1)
    config = EncoderConfig(
        num_layers=4, dim=16, num_heads=2, ffn_dim=32, conv_channels=4, sharing=2, chunk_ms=chunk, left_context_ms=back,
        look_ahead_ms=ahead, residual=ResidualConfig(3, True),
    )  # fmt: skip
    encoder = TransformerEncoder(dataclasses.replace(config, **changes), BINS).eval()
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    encoder.mean.normal_(), encoder.std.uniform_(0.5, 2)
    return encoder


def stream(encoder, features, lengths):
    """Chunk by chunk until the longest stream ends: (N, chunks * C, D)."""
    state, pieces = encoder.init_state(len(features)), []
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, features.size(1), encoder.shift):
        window = padded[:, start : start + encoder.window]
        out, state = encoder.step(window, (lengths - start).clamp(0, encoder.window), state)
        pieces.append(out)
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("frame_ms, frames", [(40, [33, 32, 1, 17]), (80, [17, 16, 1, 9])])
@pytest.mark.parametrize("chunk, back, ahead", SETTINGS)
@torch.no_grad()
def test_streaming_equals_the_masked_pass(chunk, back, ahead, frame_ms, frames):
    encoder = make(chunk, back, ahead, frame_ms=frame_ms)
    features, lengths = torch.randn(4, 131, BINS), torch.tensor([131, 128, 1, 66])
    full, full_lengths = encoder(features, lengths)
    assert full_lengths.tolist() == frames
    pieces = stream(encoder, features, lengths)
    for n, length in enumerate(full_lengths):
        # fp32: the same sums in another order, four layers deep
        torch.testing.assert_close(pieces[n, :length], full[n, :length], rtol=0, atol=1e-5)


@torch.no_grad()
def test_streams_of_a_batch_may_start_at_different_times():
    encoder = make()
    first, second = torch.randn(1, 3 * encoder.shift, BINS), torch.randn(1, 3 * encoder.shift, BINS)

    def steps(features, state, starts):
        for start in starts:
            window = torch.nn.functional.pad(features[:, start : start + encoder.window], (0, 0, 0, encoder.window))
            full = torch.tensor([encoder.window] * len(features))
            out, state = encoder.step(window[:, : encoder.window], full, state)
        return out, state

    shift = encoder.shift
    _, old = steps(first, encoder.init_state(1), [0])
    alone_first = steps(first, old, [shift])[0]
    alone_second = steps(second, encoder.init_state(1), [0])[0]
    state, new = copy.deepcopy(old), encoder.init_state(1)
    state.conv = tuple(torch.cat(pair) for pair in zip(state.conv, new.conv, strict=True))
    layers = zip(state.past, new.past, strict=True)
    state.past = [tuple(torch.cat(kv) for kv in zip(a, b, strict=True)) for a, b in layers]
    state.seen = torch.cat([state.seen, new.seen])
    both = steps(torch.cat([first[:, shift:], second[:, : 2 * shift]]), state, [0])[0]
    torch.testing.assert_close(both, torch.cat([alone_first, alone_second]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk, back, ahead", SETTINGS)
def test_no_output_sees_beyond_its_chunk_and_look_ahead(chunk, back, ahead):
    encoder = make(chunk, back, ahead)
    features = torch.randn(1, 96, BINS, requires_grad=True)
    out, _ = encoder(features, torch.tensor([96]))
    frame = encoder.chunk  # the first frame of the second chunk
    out[0, frame].square().sum().backward()
    seen = features.grad[0].abs().sum(1).nonzero().flatten()
    assert seen.max() == min(encoder.shift + encoder.window, 96) - 1


@torch.no_grad()
def test_padding_and_company_do_not_matter():
    encoder = make()
    features, lengths = torch.randn(3, 90, BINS), torch.tensor([90, 41, 64])
    together, _ = encoder(features, lengths)
    for n, length in enumerate(lengths):
        alone, (size,) = encoder(features[n : n + 1, :length], lengths[n : n + 1])
        torch.testing.assert_close(together[n, :size], alone[0], rtol=0, atol=1e-5)  # sums in another order


@torch.no_grad()
def test_zero_residual_equals_the_shared_model_bit_for_bit():
    plain = make(residual=ResidualConfig())
    residual = TransformerEncoder(dataclasses.replace(plain.config, residual=ResidualConfig(3, True)), BINS).eval()
    missing = residual.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(key[-1] in "ABD" for key in missing.missing_keys)
    features, lengths = torch.randn(2, 70, BINS), torch.tensor([70, 50])
    assert torch.equal(residual(features, lengths)[0], plain(features, lengths)[0])
    assert torch.equal(stream(residual, features, lengths), stream(plain, features, lengths))


@torch.no_grad()
def test_layers_of_a_group_share_and_a_residual_makes_them_differ():
    encoder = make()
    groups = layer_groups(encoder.config.sharing, encoder.config.num_layers)
    for layer, group in zip(encoder.layers, groups, strict=True):
        assert layer.up.shared is encoder.bank[group]["up"]
    assert encoder.layers[0].norm1 is not encoder.layers[1].norm1
    assert not torch.equal(encoder.layers[0].up.dense(), encoder.layers[1].up.dense())
    # A residual that makes up for the difference of two full matrices gives the unshared model (full rank).
    unshared = make(sharing=1, residual=ResidualConfig())
    full = TransformerEncoder(dataclasses.replace(unshared.config, sharing=4, residual=ResidualConfig(16)), BINS).eval()
    state = {name: value for name, value in unshared.state_dict().items() if not name.startswith("bank")}
    state |= {name: value for name, value in unshared.bank.state_dict(prefix="bank.").items() if ".0." in name}
    full.load_state_dict(state, strict=False)
    for index, layer in enumerate(full.layers):
        for part, linear in {"up": layer.up, "down": layer.down, **dict(layer.attention.named_children())}.items():
            wanted = unshared.bank[index][part]
            difference = (wanted.weight - linear.shared.weight).T
            u, s, v = torch.linalg.svd(difference, full_matrices=False)
            linear.A.copy_(u * s), linear.B.copy_(v)
            wanted.bias.copy_(linear.shared.bias)  # biases are shared, footnote 2
    features, lengths = torch.randn(1, 64, BINS), torch.tensor([64])
    torch.testing.assert_close(full(features, lengths)[0], unshared(features, lengths)[0], rtol=0, atol=1e-4)


def test_state_holds_each_weight_once():
    encoder = make()
    names = [name for name in encoder.state_dict() if name.endswith("weight") and ("up" in name or "down" in name)]
    assert len(names) == 2 * len(encoder.bank)


def test_chunk_mask_is_the_documented_picture():
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 1, 1, 1],
        ]
    ).bool()
    masks = chunk_mask(6, torch.tensor([5, 6]), 2, 1, 0)
    assert masks.shape == (2, 1, 6, 6) and torch.equal(masks[0, 0], expected)
    expected[4:, 5] = True
    assert torch.equal(masks[1, 0], expected)


@pytest.mark.parametrize("left_context", [0, 3, None])
@pytest.mark.parametrize("look_ahead", [0, 2])
def test_step_masks_are_the_rows_of_the_chunk_mask(left_context, look_ahead):
    """Chunk by chunk, with as many cached frames as the left context has, or all of the past."""
    lengths, chunk, size = torch.tensor([10, 7]), 2, 10
    whole = chunk_mask(size, lengths, chunk, left_context, look_ahead)
    for start in range(0, size - look_ahead, chunk):
        held = start if left_context is None else left_context
        real = (lengths - start).clamp(0, chunk + look_ahead)
        step = step_mask(held, chunk + look_ahead, chunk, torch.tensor([start, start]), real)
        seen = min(held, start)
        assert not step[..., : held - seen].any()  # an empty cache
        columns = slice(start - seen, start + chunk + look_ahead)
        for n, length in enumerate(lengths.tolist()):  # rows of real frames; others are never looked at
            rows = slice(0, max(0, min(chunk, length - start)))
            assert torch.equal(step[n, :, rows, held - seen :], whole[n, :, start : start + chunk, columns][:, rows])


def test_milliseconds_round_up_to_frames():
    assert [num_frames(ms, 40) for ms in (0, 1, 40, 160, 288)] == [0, 1, 1, 4, 8]
    assert [num_frames(ms, 80) for ms in (0, 1, 40, 160, 288)] == [0, 1, 1, 2, 4]


@pytest.mark.parametrize(
    "sharing, groups",
    [
        (1, [0, 1, 2, 3, 4, 5]),
        (3, [0, 0, 0, 1, 1, 1]),
        (4, [0, 0, 0, 0, 1, 1]),
        ([0, 1, 0, 1, 2, 2], [0, 1, 0, 1, 2, 2]),
    ],
)
def test_groups(sharing, groups):
    assert layer_groups(sharing, 6) == groups


@pytest.mark.parametrize("sharing", [0, [0, 0], [0, 0, 2, 2, 3, 3]])
def test_bad_groups_are_refused(sharing):
    with pytest.raises(ValueError):
        layer_groups(sharing, 6)
