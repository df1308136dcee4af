"""The streaming Transformer encoder: one set of weights, a masked full pass and a chunk-by-chunk one that equals it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.schema import EncoderConfig
from residualformer.nn.attention import KeysValues, additive, rotary_table
from residualformer.nn.encoder import Encoder
from residualformer.nn.layer import TransformerLayer
from residualformer.nn.linear import Stacks
from residualformer.nn.mask import chunk_mask, frames
from residualformer.nn.sharing import layer_groups, layer_linears, shared_set
from residualformer.nn.subsampling import SUBSAMPLING, ConvSubsampling, num_encoder_frames
from residualformer.padding import real_frames


@dataclass
class TransformerState:
    """What a stream remembers between two calls of `step`.

    Attributes:
        conv: the two caches of `ConvSubsampling`, (N, 1, 1, F) and (N, channels, 1, F / 2).
        past: keys and values of each layer, (N, H, P, D / H); P = look_back frames, the newest last, or, with an
            unlimited look-back, as many as were seen.
        seen: (N,) int64, encoder frames consumed; the newest min(seen, P) cached frames are real, the others empty.
    """

    conv: tuple[Tensor, Tensor]
    past: list[KeysValues]
    seen: Tensor


class TransformerEncoder(Encoder[TransformerState]):
    """Global normalisation, convolutional front end, L layers over a bank of shared weights, final normalisation.

    A stream is cut into chunks of C encoder frames. In every layer a frame sees its chunk and `look_back` frames before
    it. The first layer also sees `look_ahead` frames after it, and only the first, so that the delay of the whole
    encoder is chunk + look-ahead whatever the number of layers.

    One `step` takes a window of 4 (C + look-ahead) feature frames and moves on by 4 C.
    """

    def __init__(self, config: EncoderConfig, num_mel_bins: int) -> None:
        chunk, ahead = frames(config.chunk_ms), frames(config.look_ahead_ms)
        super().__init__(
            num_mel_bins,
            dim=config.dim,
            stride=SUBSAMPLING,
            window=SUBSAMPLING * (chunk + ahead),
            shift=SUBSAMPLING * chunk,
        )
        self.config, self.chunk, self.look_ahead = config, chunk, ahead
        self.look_back = None if config.look_back_ms is None else frames(config.look_back_ms)
        self.subsampling = ConvSubsampling(num_mel_bins, config.conv_channels, config.dim)
        groups = layer_groups(config.sharing, config.num_layers)
        self.bank = nn.ModuleList(shared_set(config) for _ in range(max(groups) + 1))
        self.layers = nn.ModuleList(
            TransformerLayer(layer_linears(self.bank[g], config), config.dim, config.num_heads, config.dropout)
            for g in groups
        )

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The masked full pass: features (N, T, F), lengths (N,) in frames -> (N, T', D) and (N,), T' = ceil(T / 4)."""
        x, _, _ = self.subsampling(self.normalize(features, lengths))
        lengths = self.output_lengths(lengths)
        size = x.size(1)
        table = rotary_table(size, self._head_dim, x.device)
        masks = self._masks(size, lengths, x.device)
        if x.device.type == "cpu" and x.requires_grad:
            masks = [additive(mask, self.config.num_heads, x.dtype) for mask in masks]
        known: Stacks = {}
        for index, layer in enumerate(self.layers):
            x = layer.whole(x, masks[min(index, 1)], table, known)
        return self._finish(x), lengths

    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """What Muon is for: the weight matrices of the layers, shared ones once; how many are stacked in each: 1."""
        return [(parameter, 1) for parameter in self.bank.parameters() if parameter.dim() == 2]

    def init_state(self, batch_size: int) -> TransformerState:
        """The state before the first chunk of `batch_size` streams."""
        config, new = self.config, self.mean.new_zeros
        bins = self.mean.numel()
        conv = new(batch_size, 1, 1, bins), new(batch_size, config.conv_channels, 1, (bins + 1) // 2)
        cache = (batch_size, config.num_heads, self.look_back or 0, self._head_dim)
        past = [(new(cache), new(cache)) for _ in self.layers]
        return TransformerState(conv, past, torch.zeros(batch_size, dtype=torch.long, device=self.mean.device))

    def step(self, features: Tensor, lengths: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Encode one chunk of each stream.

        Args:
            features: (N, window, F): the `shift` frames of this chunk and the look-ahead; the next call is `shift` on.
            lengths: (N,) real frames in the window: `window`, but fewer at the end of a stream.
            state: from `init_state` or the last call; it is not changed.

        Returns:
            (N, C, D), of which the first ceil(min(lengths, shift) / 4) are real, and the new state.
        """
        x = self.normalize(features, lengths)
        ahead = x[:, self.shift :]
        x, *conv = self.subsampling(x[:, : self.shift], *state.conv)
        if self.look_ahead:
            x = torch.cat([x, self.subsampling(ahead, *conv)[0]], dim=1)
        real = num_encoder_frames(lengths)
        past = []
        for layer, kv in zip(self.layers, state.past, strict=True):
            held, size = kv[0].size(2), x.size(1)
            mask = self._step_mask(held, size, state.seen, real)
            table = rotary_table(held + size, self._head_dim, x.device)
            x, kv = layer(x, self.chunk, kv, mask, table)
            past.append(self._keep(kv, held))
        return self._finish(x), TransformerState(tuple(conv), past, state.seen + self.chunk)

    @property
    def _head_dim(self) -> int:
        return self.config.dim // self.config.num_heads

    def _finish(self, x: Tensor) -> Tensor:
        # No scale and bias of its own: linear layers follow, and the paper's count has no room for them.
        return F.layer_norm(x, x.shape[-1:])

    def _masks(self, size: int, lengths: Tensor, device: torch.device) -> list[Tensor]:
        """(N, 1, T', T') masks of the first layer and of the others. A frame may always see itself: no row is empty."""
        real = real_frames(size, lengths)[:, None, None]
        itself = torch.eye(size, dtype=torch.bool, device=device)
        ahead = dict.fromkeys([self.look_ahead, 0])
        masks = [chunk_mask(size, self.chunk, self.look_back, n, device) & real | itself for n in ahead]
        return [masks[0], masks[-1]]

    def _step_mask(self, held: int, size: int, seen: Tensor, real: Tensor) -> Tensor:
        """(N, 1, C, held + size): the real frames of cache and window, and itself."""
        position = torch.arange(held + size, device=seen.device)
        allowed = (position >= held - seen.unsqueeze(1)) & (position < held + real.unsqueeze(1))
        itself = position == held + torch.arange(self.chunk, device=seen.device).unsqueeze(1)
        return (allowed.unsqueeze(1) | itself).unsqueeze(1)

    def _keep(self, kv: KeysValues, held: int) -> KeysValues:
        """Of past and window the newest `look_back` frames, look-ahead excluded."""
        end = held + self.chunk
        start = 0 if self.look_back is None else end - self.look_back
        return kv[0][:, :, start:end], kv[1][:, :, start:end]
