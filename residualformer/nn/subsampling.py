"""The front end: 3x3 stride-2 convolutions, each halving the frames (ResidualTransformer, section 4.2, has two)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvSubsampling(nn.Module):
    """Convolutions `conv1`, `conv2`, ... and a linear layer, (N, T, F) -> (N, T / stride, D).

    Each convolution sees one frame before its pair and none after it, so with a stride of 4 encoder frame t depends on
    feature frames 4t - 3 ... 4t + 3 only: nothing beyond its own group of four. Streaming carries one frame per
    convolution.

    Args:
        stride: feature frames in one encoder frame, 2 to the number of convolutions.
    """

    def __init__(self, num_mel_bins: int, channels: int, dim: int, stride: int = 4) -> None:
        super().__init__()
        self.cache_shapes: list[tuple[int, int, int]] = []  # of a stream, before each convolution
        inputs, bins = 1, num_mel_bins
        for number in range(1, stride.bit_length()):
            self.add_module(f"conv{number}", nn.Conv2d(inputs, channels, 3, stride=2, padding=(0, 1)))
            self.cache_shapes.append((inputs, 1, bins))
            inputs, bins = channels, (bins + 1) // 2
        self.out = nn.Linear(channels * bins, dim)

    def convolutions(self) -> dict[str, nn.Conv2d]:
        """Return the convolutions by name, in order."""
        return {name: module for name, module in self.named_children() if isinstance(module, nn.Conv2d)}

    def forward(self, x: Tensor, caches: Sequence[Tensor | None] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Subsample whole utterances, or the next frames of a stream.

        Args:
            x: (N, T, F), T a multiple of the stride.
            caches: of each convolution (N, *cache_shape), the last of its input frames before these; default: zeros.

        Returns:
            (N, T / stride, D), and the caches for the frames that follow.
        """
        x = x.unsqueeze(3).movedim(3, 1)  # (N, 1, T, F); unsqueeze(1) would make the only channel count as first
        convolutions, kept = self.convolutions().values(), []
        for conv, cache in zip(convolutions, caches or [None] * len(convolutions), strict=True):
            x, y = self._convolve(conv, x, cache)  # y (N, C, T / 2, F / 2)
            kept.append(x[:, :, -1:])
            x = y
        return self.out(x.transpose(1, 2).flatten(2)), tuple(kept)

    def flops(self) -> float:
        """Return the multiply-accumulates per encoder frame, products with the zeros at the edges included."""
        convolutions = [*self.convolutions().values()]
        bins = [bins for _, _, bins in self.cache_shapes[1:]] + [self.out.in_features // convolutions[-1].out_channels]
        total = self.out.weight.numel()
        for later, (conv, outputs) in enumerate(zip(reversed(convolutions), reversed(bins), strict=True)):
            total += 2**later * outputs * conv.weight.numel()
        return float(total)

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
