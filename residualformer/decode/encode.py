"""The encoder over whole utterances, by one masked pass or chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residualformer.nn.arbitrator import one_hot
from residualformer.nn.encoder import BranchedEncoder
from residualformer.nn.recurrent import RecurrentEncoder
from residualformer.nn.transducer import Transducer

LONGEST_FULL_PASS = 6000  # feature frames: one minute


class EncodedFrames(NamedTuple):
    """The encoder's output for N utterances and, where there was a choice, the branch that each step went through.

    A step is a frame of a recurrent encoder, of which branches are always told, or a chunk of a Transformer.
    """

    frames: Tensor  # (N, T', D)
    lengths: Tensor  # (N,)
    branches: Tensor | None = None  # (N, steps) int64; all 0 of recurrent encoders with one branch


@torch.no_grad()
def encode(
    model: Transducer, features: Tensor, lengths: Tensor, streaming: bool = False, given: Tensor | None = None
) -> EncodedFrames:
    """Encode features (N, T, F) with `lengths` (N,) by the masked full pass, or chunk by chunk if `streaming`.

    With `given` (N, steps) int64 each frame goes through that branch, or each chunk of a Transformer is encoded at that
    depth, whatever the arbitrator says. Both ways give the same output. Utterances of more than `LONGEST_FULL_PASS`
    frames always go chunk by chunk, because the mask of a full pass grows with T squared.
    """
    if not streaming and features.shape[1] <= LONGEST_FULL_PASS:
        return _full_pass(model, features, lengths, given)
    frames, _, branches = zip(*encode_chunks(model, features, lengths, given), strict=True)
    taken = (
        None if branches[0] is None else torch.cat(branches, dim=1)[:, : int(model.encoder.num_steps(lengths).max())]
    )
    lengths = model.encoder.output_lengths(lengths)
    return EncodedFrames(torch.cat(frames, dim=1)[:, : int(lengths.max())], lengths, taken)


@torch.no_grad()
def encode_chunks(
    model: Transducer, features: Tensor, lengths: Tensor, given: Tensor | None = None
) -> Iterator[EncodedFrames]:
    """Run features (N, T, F) with `lengths` (N,) through `encoder.step`; yield C frames of each utterance at a time.

    For `given`, see `encode`.
    """
    encoder = model.encoder
    assert isinstance(encoder, BranchedEncoder)
    state = encoder.init_state(features.shape[0])
    told = given is not None or _always_told(encoder)
    padded = torch.nn.functional.pad(features, (0, 0, 0, encoder.window))
    for start in range(0, max(int(lengths.max()), 1), encoder.shift):
        real = (lengths - start).clamp(min=0)
        window = padded[:, start : start + encoder.window]
        sizes = real.clamp(max=encoder.window)
        if given is None:
            encoded, state = encoder.step(window, sizes, state)
        else:
            encoded, state = encoder.step_through(window, sizes, state, given[:, start // encoder.shift])
        branches = state.branch[:, None] if told else None
        yield EncodedFrames(encoded, encoder.output_lengths(real.clamp(max=encoder.shift)), branches)


def _full_pass(model: Transducer, features: Tensor, lengths: Tensor, given: Tensor | None) -> EncodedFrames:
    encoder = model.encoder
    assert isinstance(encoder, BranchedEncoder)
    if given is not None:
        return EncodedFrames(encoder.encode_through(features, lengths, given), encoder.output_lengths(lengths), given)
    frames, sizes, decisions, _ = encoder.encode(features, lengths, one_hot)
    if decisions is not None:
        return EncodedFrames(frames, sizes, decisions.argmax(2))
    return EncodedFrames(
        frames, sizes, torch.zeros_like(frames[..., 0], dtype=torch.int64) if _always_told(encoder) else None
    )


def _always_told(encoder: BranchedEncoder[Any]) -> bool:
    """Return whether branches are told where none are given: those of an arbitrator, and of recurrent encoders."""
    return encoder.arbitrator is not None or isinstance(encoder, RecurrentEncoder)
