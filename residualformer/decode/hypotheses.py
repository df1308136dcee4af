"""The tensors that hold the labels of many hypotheses at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class History:
    """Labels of all hypotheses as a forest of back-pointers: node -> (parent node, label, frame).

    Node 0 is the empty sequence. Nodes are never changed or removed, so hypotheses share their common past.
    """

    parents: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    size: int = 1

    def append(self, parents: Tensor, labels: Tensor, frame: int) -> Tensor:
        """Extend the nodes `parents` (M,) by `labels` (M,), both int64, at `frame`; return the new nodes (M,)."""
        self.parents.append(parents)
        self.labels.append(labels)
        self.frames.append(torch.full_like(labels, frame))
        self.size += labels.numel()
        return torch.arange(self.size - labels.numel(), self.size, device=labels.device)

    def trace(self, nodes: list[int]) -> list[tuple[list[int], list[int]]]:
        """Return the labels of each node and their frames, in the order in which they were written."""
        if not self.labels:
            return [([], []) for _ in nodes]
        parents, labels, frames = (torch.cat(part).tolist() for part in (self.parents, self.labels, self.frames))
        paths = []
        for node in nodes:
            path = []
            while node:
                path.append(node - 1)  # node 0 is not stored
                node = parents[node - 1]
            path.reverse()
            paths.append(([labels[i] for i in path], [frames[i] for i in path]))
        return paths


def extend_keys(keys: Tensor, labels: Tensor) -> Tensor:
    """Return the 64-bit keys of `sequence + label` from the keys of `sequence` (both int64, of the same shape).

    Equal sequences have equal keys. Two different ones collide with a probability of about 2^-64, because every label
    is followed by the finalizer of splitmix64 (Steele et al., 2014), in wrapping arithmetic.
    """
    keys = (keys ^ (labels + 1)) * _signed(0x9E3779B97F4A7C15)
    keys = (keys ^ _shift_right(keys, 30)) * _signed(0xBF58476D1CE4E5B9)
    keys = (keys ^ _shift_right(keys, 27)) * _signed(0x94D049BB133111EB)
    return keys ^ _shift_right(keys, 31)


def _shift_right(keys: Tensor, bits: int) -> Tensor:
    """Shift logically; torch shifts signed integers arithmetically."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the int64 that has the bits of the unsigned `value`."""
    return value - (1 << 64)
