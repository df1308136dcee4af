"""Attention masks of a chunk-wise encoder (ResidualTransformer, section 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residualformer.padding import real_frames


def num_frames(milliseconds: int, frame_ms: int) -> int:
    """Return the number of encoder frames that cover `milliseconds`, rounded up.

    The 288 ms of left context in the paper are 7.2 frames of 40 ms and become 8 (320 ms).
    """
    return math.ceil(milliseconds / frame_ms)


def chunk_mask(size: int, lengths: Tensor, chunk: int, left_context: int | None, look_ahead: int) -> Tensor:
    """Return which frame may attend to which in whole utterances.

    A query sees its whole chunk, `left_context` frames before the chunk (None: all), `look_ahead` frames after it; it
    never sees padding, and always itself, so that no row is empty. With chunk = 2, left_context = 1, look_ahead = 0,
    and 5 real frames of 6::

        1 1 0 0 0 0
        1 1 0 0 0 0
        0 1 1 1 0 0
        0 1 1 1 0 0
        0 0 0 1 1 0
        0 0 0 1 1 1

    Args:
        size: T'.
        lengths: (N,) real frames of each utterance.

    Returns:
        (N, 1, T', T') bool; rows are queries, columns keys.
    """
    position = torch.arange(size, device=lengths.device)
    start = (position // chunk * chunk).unsqueeze(1)
    mask = position < start + chunk + look_ahead
    if left_context is not None:
        mask = mask & (position >= start - left_context)
    itself = torch.eye(size, dtype=torch.bool, device=lengths.device)
    return mask & real_frames(size, lengths)[:, None, None] | itself


def step_mask(held: int, size: int, chunk: int, seen: Tensor, real: Tensor) -> Tensor:
    """Return which frames the queries of one chunk may attend to: the real ones of cache and window, and itself.

    Args:
        held: frames in the cache; they come before those of the window.
        size: frames in the window, of which the first `chunk` are queries.
        seen: (N,) frames that each stream has consumed; the cache holds no more real ones than that.
        real: (N,) real frames in the window.

    Returns:
        (N, 1, chunk, held + size) bool.
    """
    position = torch.arange(held + size, device=seen.device)
    allowed = (position >= held - seen.unsqueeze(1)) & (position < held + real.unsqueeze(1))
    itself = position == held + torch.arange(chunk, device=seen.device).unsqueeze(1)
    return (allowed.unsqueeze(1) | itself).unsqueeze(1)
