"""The streaming Transformer encoder: one set of weights, a masked full pass and a chunk-by-chunk one that equals it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residualformer.config.amnet import ArbitratorConfig
from residualformer.config.schema import EncoderConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.kernels.attention import AttentionMask, Table
from residualformer.kernels.recurrent import State
from residualformer.nn.arbitrator import Arbitrator, Sampler, one_hot
from residualformer.nn.attention import KeysValues, rotary_table
from residualformer.nn.encoder import BranchedEncoder, Encoded
from residualformer.nn.layer import TransformerLayer
from residualformer.nn.linear import DenseWeights
from residualformer.nn.mask import chunk_mask, num_frames, step_mask
from residualformer.nn.sharing import layer_groups, layer_linears, loop_of_each_layer, shared_set
from residualformer.nn.subsampling import ConvSubsampling
from residualformer.nn.typed import ModuleList
from residualformer.padding import real_frames


@dataclass
class TransformerState:
    """The state of N streams between two calls of `step`, for P frames of left context (all so far if unlimited).

    No tensor in it is ever modified in place.
    """

    conv: tuple[Tensor, ...]  # the caches of `ConvSubsampling`
    past: list[KeysValues]  # of each layer, (N, H, P, D / H): those of the newest frames, the newest last
    seen: Tensor  # (N,) int64, encoder frames consumed; the newest min(seen, P) cached frames are real, others empty
    arbitrator: list[State]  # (h, c) of each of its layers, (N, hidden_dim); empty where there is none
    backlog: Tensor  # (N,) the work left when the next chunk begins, in chunks of the device's time
    branch: Tensor  # (N,) int64, the number of the depth at which the last chunk was encoded


class _Begun(NamedTuple):
    """Whole utterances before the first layer."""

    x: Tensor  # (N, T', D), from the front end
    lengths: Tensor  # (N,) real ones of these
    masks: tuple[AttentionMask, AttentionMask]  # of the first layer and of the others
    table: Table  # of positions


class TransformerEncoder(BranchedEncoder[TransformerState]):
    """Global normalization, convolutional front end, L layers over a bank of shared weights, final normalization.

    A stream is cut into chunks of C encoder frames. In every layer a frame sees its chunk and the left context before
    it. The first layer also sees the look-ahead after it, and only the first, so that the delay of the whole encoder is
    chunk + look-ahead whatever the number of layers.

    With `depth.loops` there are lower depths: for all of a stream (`encode_at`; `model.depth.at_depth` makes a model of
    the layers that are left), or for each chunk its own (`encode_through`, `step_through`). Where a layer is not run, x
    passes by, and the layer's projections of it are the keys and values for later chunks.

    An arbitrator may choose the depth of each chunk. It sees what the front end made of the chunk's own C frames, side
    by side, as that of an AmNet sees stacked feature frames: no layer, so that it can decide before any is run. It may
    also see the backlog of a device, for which `run_on` must be called.

    One `step` takes a window of stride (C + look-ahead) feature frames and moves on by stride C.

    Args:
        arbitrator: its sizes, where there is one.
    """

    load: Tensor  # buffer (B,): the work of a chunk at each depth, in chunks of the device's time

    def __init__(self, config: EncoderConfig, num_mel_bins: int, arbitrator: ArbitratorConfig | None = None) -> None:
        stride, frame_ms, left_ms = config.stride, config.frame_ms, config.left_context_ms
        chunk, look_ahead = num_frames(config.chunk_ms, frame_ms), num_frames(config.look_ahead_ms, frame_ms)
        super().__init__(
            num_mel_bins,
            dim=config.dim,
            stride=stride,
            window=stride * (chunk + look_ahead),
            shift=stride * chunk,
        )
        self.config, self.chunk, self.look_ahead = config, chunk, look_ahead
        self.left_context = None if left_ms is None else num_frames(left_ms, frame_ms)
        self.subsampling = ConvSubsampling(num_mel_bins, config.conv_channels, config.dim, stride)
        groups = layer_groups(config.sharing, config.num_layers)
        bank = [shared_set(config) for _ in range(max(groups) + 1)]
        self.bank = ModuleList[nn.ModuleDict](bank)
        self.loop_of_layer = loop_of_each_layer(groups)
        self.served = config.depth.loops or [max(self.loop_of_layer)]  # loops at each depth, the largest first
        self.layers = ModuleList[TransformerLayer](
            TransformerLayer(layer_linears(bank[group], config), config.dim, config.num_heads, config.dropout)
            for group in groups
        )
        self.num_branches = len(self.served)
        self.arbitrator: Arbitrator | None = None
        if arbitrator is not None:
            self.arbitrator = Arbitrator(chunk * config.dim, self.num_branches, arbitrator)
        self.register_buffer("load", torch.zeros(self.num_branches), persistent=False)

    def run_on(self, mu: float, output: float) -> None:
        """Tell the device whose backlog the arbitrator sees.

        Args:
            mu: its FLOP/s.
            output: FLOPs per encoder frame that follow the encoder.
        """
        free = mu * FRAME_SHIFT_S * self.stride  # FLOPs per encoder frame
        self.load = self.mean.new_tensor([(q + self.arbitrator_flops() + output) / free for q in self.branch_flops()])

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole utterances in one masked pass; see `Encoder.forward`."""
        if self.arbitrator is None:
            return self.encode_at(features, lengths, max(self.loop_of_layer))
        encoded = self.encode(features, lengths, one_hot)
        return encoded.frames, encoded.lengths

    def encode(self, features: Tensor, lengths: Tensor, sampler: Sampler) -> Encoded:
        """Encode whole utterances; see `BranchedEncoder.encode`."""
        if self.arbitrator is None:
            return Encoded(*self.forward(features, lengths), None, None)
        begun = self._begin(features, lengths)
        decisions, logits = self._decided(self._seen(begun.x, begun.lengths), sampler)
        return Encoded(self._mixed(begun, decisions), begun.lengths, decisions, logits)

    def arbitrate(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the arbitrator's logits (N, chunks, B), for which no layer is run."""
        x, _ = self.subsampling(self.normalize(features, lengths))
        return self._decided(self._seen(x, self.output_lengths(lengths)), one_hot)[1]

    def encode_at(self, features: Tensor, lengths: Tensor, loops: int) -> tuple[Tensor, Tensor]:
        """Encode whole utterances with the first `loops` layers of each group alone; x passes by the others."""
        x, lengths, masks, table = self._begin(features, lengths)
        weights = DenseWeights()
        for index, layer in enumerate(self.layers):
            if self.loop_of_layer[index] <= loops:
                x = layer(x, masks[min(index, 1)], table, weights)
        return self._finish(x), lengths

    def encode_through(self, features: Tensor, lengths: Tensor, branches: Tensor) -> Tensor:
        """Encode whole utterances, each chunk at the depth that is given; see `BranchedEncoder.encode_through`.

        Depths are numbered as in `depth.loops`.
        """
        return self._mixed(self._begin(features, lengths), F.one_hot(branches, self.num_branches))

    def _mixed(self, begun: _Begun, decisions: Tensor) -> Tensor:
        """Run the layers by decisions (N, chunks, B), which sum to one over B; soft ones mix input and output."""
        x, _, masks, table = begun
        weights = DenseWeights()
        for index, (layer, loop) in enumerate(zip(self.layers, self.loop_of_layer, strict=True)):
            y = layer(x, masks[min(index, 1)], table, weights)
            runs = sum(loop <= loops for loops in self.served)  # at so many depths, which are the first
            if runs < self.num_branches:  # lerp gives x at 0 and y at 1 to the bit
                share = decisions[..., :runs].sum(2).repeat_interleave(self.chunk, 1)[:, : x.size(1), None]
                y = torch.lerp(x.to(y.dtype), y, share.to(y.dtype))
            x = y
        return self._finish(x)

    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """Return the weight matrices of the bank, one in each parameter."""
        return [(parameter, 1) for parameter in self.bank.parameters() if parameter.dim() == 2]

    def init_state(self, batch_size: int) -> TransformerState:
        """Return the state before the first chunk of `batch_size` streams."""
        config, new = self.config, self.mean.new_zeros
        conv = tuple(new(batch_size, *shape) for shape in self.subsampling.cache_shapes)
        cache = (batch_size, config.num_heads, self.left_context or 0, self._head_dim)
        past = [(new(cache), new(cache)) for _ in self.layers]
        arbitrator = [] if self.arbitrator is None else self.arbitrator.init_state(batch_size)
        zeros = torch.zeros(batch_size, dtype=torch.long, device=self.mean.device)
        return TransformerState(conv, past, zeros, arbitrator, new(batch_size), zeros)

    def step(self, features: Tensor, lengths: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Encode one chunk of each stream, features (N, window, F) -> (N, C, D); see `Encoder.step`."""
        return self._step(features, lengths, state, None)

    def step_through(
        self, features: Tensor, lengths: Tensor, state: TransformerState, branch: Tensor
    ) -> tuple[Tensor, TransformerState]:
        """Do what `step` does, each stream at the depth (N,) int64 that is given; the arbitrator is not asked."""
        return self._step(features, lengths, state, branch)

    def _step(
        self, features: Tensor, lengths: Tensor, state: TransformerState, branch: Tensor | None
    ) -> tuple[Tensor, TransformerState]:
        x = self.normalize(features, lengths)
        x, ahead = x[:, : self.shift], x[:, self.shift :]
        x, conv = self.subsampling(x, state.conv)
        arbitrator = state.arbitrator
        if branch is None:
            branch = torch.zeros_like(state.branch)
            if self.arbitrator is not None:
                seen = self._seen(x, self.output_lengths(lengths))
                logits, arbitrator = self._ask(seen, state.backlog, arbitrator)
                branch = logits[:, 0].argmax(1)
        loops = [self.served[number] for number in branch.tolist()]
        if self.look_ahead:  # not in the new state: the next step computes these frames again
            x = torch.cat([x, self.subsampling(ahead, conv)[0]], dim=1)
        held, size = state.past[0][0].size(2), x.size(1)
        allowed = step_mask(held, size, self.chunk, state.seen, self.output_lengths(lengths))
        table = rotary_table(held + size, self._head_dim, x.device)
        past = []
        for layer, loop, keys_values in zip(self.layers, self.loop_of_layer, state.past, strict=True):
            rows = [row for row, run in enumerate(loops) if loop <= run]
            seen = allowed[..., : held + x.size(1)]
            if len(rows) == len(loops):
                x, keys_values = layer.step(x, self.chunk, keys_values, seen, table)
            else:
                x, keys_values = self._step_of(rows, layer, x, keys_values, seen, table)
            past.append(self._keep(keys_values, held))
        backlog = self._left(state.backlog, branch)
        return self._finish(x), TransformerState(conv, past, state.seen + self.chunk, arbitrator, backlog, branch)

    def branch_flops(self, by_chunk: bool = False) -> list[float]:
        """Return the multiply-accumulates per encoder frame at each depth, front end included, in chunks of a stream.

        The look-ahead is computed twice, in its own chunk and in that before. Attention to the past counts for a whole
        left context; for none where it has no limit.

        Args:
            by_chunk: each chunk has a depth of its own, so that layers which are not run make keys and values. So it
                is always where an arbitrator chooses.
        """
        by_chunk = by_chunk or self.arbitrator is not None
        size, held = self.chunk + self.look_ahead, self.left_context or 0
        costs = [size * self.subsampling.flops()] * self.num_branches
        for index, (layer, loop) in enumerate(zip(self.layers, self.loop_of_layer, strict=True)):
            run = layer.flops(self.chunk, self.chunk if index else size, held)
            passed = layer.flops(0, self.chunk, held) if by_chunk else 0.0
            costs = [cost + (run if loop <= loops else passed) for cost, loops in zip(costs, self.served, strict=True)]
        return [cost / self.chunk for cost in costs]

    @property
    def _head_dim(self) -> int:
        return self.config.dim // self.config.num_heads

    def _begin(self, features: Tensor, lengths: Tensor) -> _Begun:
        x, _ = self.subsampling(self.normalize(features, lengths))
        lengths = self.output_lengths(lengths)
        return _Begun(x, lengths, self._masks(x.size(1), lengths), rotary_table(x.size(1), self._head_dim, x.device))

    def _decided(self, x: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Return decisions and logits (N, chunks, B) about x (N, chunks, C D); chunk by chunk if the backlog counts."""
        assert self.arbitrator is not None
        if self.arbitrator.backlog is None:
            logits, _ = self.arbitrator(x)
            return sampler(logits), logits
        state, backlog = self.arbitrator.init_state(len(x)), x.new_zeros(len(x), dtype=self.load.dtype)
        decisions, logits = [], []
        for x_t in x.split(1, 1):
            logit, state = self._ask(x_t, backlog, state)
            decision = sampler(logit)
            backlog = self._left(backlog, decision[:, 0].argmax(1))
            decisions.append(decision)
            logits.append(logit)
        return torch.cat(decisions, 1), torch.cat(logits, 1)

    def _ask(self, x: Tensor, backlog: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Ask the arbitrator about a chunk x (N, 1, C D) and, if it sees that, the backlog (N,) l before it.

        The backlog has no limit, so log(1 + l) stands for it.
        """
        assert self.arbitrator is not None
        if self.arbitrator.backlog is not None:
            x = torch.cat([x, backlog.log1p().to(x.dtype)[:, None, None]], 2)
        return self.arbitrator(x, state)

    def _left(self, backlog: Tensor, branch: Tensor) -> Tensor:
        """Return the backlog (N,) after a chunk at the depths (N,): of eq. 7, over what is done in a chunk's time."""
        return (backlog + self.load[branch] - 1).clamp(min=0)

    def _seen(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what the arbitrator sees of frames x (N, T', D), of which `lengths` (N,) are real: (N, chunks, C D).

        Each frame is normalized, since the scale of a trained front end is nothing that its layers depend on.
        """
        x = F.layer_norm(x, x.shape[-1:]).masked_fill(~real_frames(x.size(1), lengths)[..., None], 0.0)
        return F.pad(x, (0, 0, 0, -x.size(1) % self.chunk)).unflatten(1, (-1, self.chunk)).flatten(2)

    def _step_of(
        self, rows: list[int], layer: TransformerLayer, x: Tensor, past: KeysValues, allowed: Tensor, table: Table
    ) -> tuple[Tensor, KeysValues]:
        """Run a layer, which is not the first, for some streams alone; the others pass by it."""
        keys_values = layer.pass_by(x, past)
        if rows:
            own = past[0][rows], past[1][rows]
            x = x.index_copy(
                0,
                torch.tensor(rows, device=x.device),
                layer.step(x[rows], self.chunk, own, allowed[rows], table)[0],
            )
        return x, keys_values

    def _finish(self, x: Tensor) -> Tensor:
        # No scale and bias of its own: linear layers follow, and the paper's count has no room for them.
        return F.layer_norm(x, x.shape[-1:])

    def _masks(self, size: int, lengths: Tensor) -> tuple[AttentionMask, AttentionMask]:
        """Return the masks of the first layer, with look-ahead, and of the others, for utterances of `lengths` (N,)."""
        others = AttentionMask(chunk_mask(size, lengths, self.chunk, self.left_context, 0))
        if not self.look_ahead:
            return others, others
        return AttentionMask(chunk_mask(size, lengths, self.chunk, self.left_context, self.look_ahead)), others

    def _keep(self, keys_values: KeysValues, held: int) -> KeysValues:
        """Return the newest frames that the next chunk sees, without the look-ahead."""
        end = held + self.chunk
        start = 0 if self.left_context is None else end - self.left_context
        keys, values = keys_values
        return keys[:, :, start:end], values[:, :, start:end]
