"""The encoder over whole utterances, by one masked pass or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from residualformer.nn.arbitrator import one_hot
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.nn.transducer import Transducer
from residualformer.nn.transformer import TransformerEncoder

LONGEST_FULL_PASS = 6000  # feature frames: one minute


class EncodedFrames(NamedTuple):
    """The encoder's output for N utterances and, of recurrent encoders, the branch that each frame went through."""

    frames: Tensor  # (N, T', D)
    lengths: Tensor  # (N,)
    branches: Tensor | None = None  # (N, T') int64; all 0 where there is one branch


@torch.no_grad()
def encode(
    model: Transducer, features: Tensor, lengths: Tensor, streaming: bool = False, given: Tensor | None = None
) -> EncodedFrames:
    """Encode features (N, T, F) with `lengths` (N,) by the masked full pass, or chunk by chunk if `streaming`.

    With `given` (N, T') int64 each frame goes through that branch, whatever the arbitrator says; of a Transformer each
    chunk, (N, chunks), is encoded at that depth. Both ways give the same output. Utterances of more than
    `LONGEST_FULL_PASS` frames always go chunk by chunk, because the mask of a full pass grows with T squared.
    """
    if not streaming and features.shape[1] <= LONGEST_FULL_PASS:
        return _full_pass(model, features, lengths, given)
    frames, _, branches = zip(*encode_chunks(model, features, lengths, given), strict=True)
    lengths = model.encoder.output_lengths(lengths)
    longest = int(lengths.max())
    taken = None if branches[0] is None else torch.cat(branches, dim=1)[:, :longest]
    return EncodedFrames(torch.cat(frames, dim=1)[:, :longest], lengths, taken)


@torch.no_grad()
def encode_chunks(
    model: Transducer, features: Tensor, lengths: Tensor, given: Tensor | None = None
) -> Iterator[EncodedFrames]:
    """Run features (N, T, F) with `lengths` (N,) through `encoder.step`; yield C frames of each utterance at a time.

    For `given`, see `encode`.
    """
    encoder = model.encoder
    state = encoder.init_state(features.shape[0])
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, max(int(lengths.max()), 1), encoder.shift):
        real = (lengths - start).clamp(min=0)
        window = padded[:, start : start + encoder.window]
        sizes = real.clamp(max=encoder.window)
        if given is None:
            encoded, state = encoder.step(window, sizes, state)
        else:
            assert isinstance(encoder, RecurrentEncoder | TransformerEncoder)
            encoded, state = encoder.step_through(window, sizes, state, given[:, start // encoder.shift])
        branches = state.branch[:, None] if isinstance(encoder, RecurrentEncoder) else None
        yield EncodedFrames(encoded, encoder.output_lengths(real.clamp(max=encoder.shift)), branches)


def _full_pass(model: Transducer, features: Tensor, lengths: Tensor, given: Tensor | None) -> EncodedFrames:
    encoder = model.encoder
    if isinstance(encoder, TransformerEncoder) and given is not None:
        return EncodedFrames(encoder.encode_through(features, lengths, given), encoder.output_lengths(lengths))
    if not isinstance(encoder, RecurrentEncoder):
        return EncodedFrames(*encoder(features, lengths))
    if given is not None:
        return EncodedFrames(encoder.encode_through(features, lengths, given), encoder.output_lengths(lengths), given)
    frames, lengths, decisions, _ = encoder.encode(features, lengths, one_hot)
    single = torch.zeros(frames.shape[:2], dtype=torch.int64, device=frames.device)
    return EncodedFrames(frames, lengths, single if decisions is None else decisions.argmax(2))
