"""Chunk-wise attention masks (ResidualTransformer, section 4.2); milliseconds in frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residualformer.constants import FRAME_SHIFT_MS
from residualformer.nn.subsampling import SUBSAMPLING

FRAME_MS = SUBSAMPLING * FRAME_SHIFT_MS  # of an encoder frame


def frames(milliseconds: int) -> int:
    """Whole encoder frames that cover `milliseconds`: rounded up, so that no less is seen than was asked for.

    The paper's 288 ms of look-back are 7.2 frames and become 8 (320 ms).
    """
    return math.ceil(milliseconds / FRAME_MS)


def chunk_mask(length: int, chunk: int, look_back: int | None, look_ahead: int, device: torch.device) -> Tensor:
    """Which frame may attend to which: (T', T') bool, rows are queries, columns keys.

    A query sees its whole chunk, `look_back` frames before the chunk's first (None: all), `look_ahead` after its last.
    With chunk = 2, look_back = 1, look_ahead = 0::

        1 1 0 0 0 0
        1 1 0 0 0 0
        0 1 1 1 0 0
        0 1 1 1 0 0
        0 0 0 1 1 1
        0 0 0 1 1 1
    """
    position = torch.arange(length, device=device)
    start = (position // chunk * chunk).unsqueeze(1)
    mask = position < start + chunk + look_ahead
    return mask if look_back is None else mask & (position >= start - look_back)
