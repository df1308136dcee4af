"""The front end: two 3x3 stride-2 convolutions, 4x fewer frames (ResidualTransformer, section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUBSAMPLING = 4


class ConvSubsampling(nn.Module):
    """Two convolutions and a linear layer, (N, T, F) -> (N, T', D).

    Each convolution sees one frame before its pair and none after it, so encoder frame t depends on feature frames
    4t - 3 ... 4t + 3 only: nothing beyond its own group of four. Streaming carries one frame per convolution.
    """

    def __init__(self, num_mel_bins: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, stride=2, padding=(0, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=(0, 1))
        bins = ((num_mel_bins + 1) // 2 + 1) // 2
        self.out = nn.Linear(channels * bins, dim)

    def forward(self, x: Tensor, cache1: Tensor | None = None, cache2: Tensor | None = None) -> tuple[Tensor, ...]:
        """Subsample whole utterances, or the next frames of a stream.

        Args:
            x: (N, T, F), T a multiple of 4.
            cache1: (N, 1, 1, F), the last input frame before x; default: zeros.
            cache2: (N, channels, 1, ceil(F / 2)), the last frame after conv1 before those of x; default: zeros.

        Returns:
            (N, T / 4, D), and the two caches for the frames that follow.
        """
        x = x.unsqueeze(3).movedim(3, 1)  # (N, 1, T, F); unsqueeze(1) would make the only channel count as first
        x, y = self._convolve(self.conv1, x, cache1)  # y (N, C, T / 2, F / 2)
        y, z = self._convolve(self.conv2, y, cache2)  # z (N, C, T / 4, F / 4)
        out = self.out(z.transpose(1, 2).flatten(2))
        return out, x[:, :, -1:], y[:, :, -1:]

    @staticmethod
    def _convolve(conv: nn.Conv2d, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x with its past, if there is one, before it, and relu(conv(x))."""
        weight, padding = conv.weight, conv.padding
        if torch.is_grad_enabled():  # channels last: on a CPU, backward takes a third of the time
            weight = weight.contiguous(memory_format=torch.channels_last)
        if cache is None:
            padding = (1, 1)  # a frame before the first and one after the last, to which no step of 2 gets
        else:
            x = torch.cat([cache.to(x.dtype), x], dim=2)
        return x, F.relu_(F.conv2d(x, weight, conv.bias, conv.stride, padding))
