"""Decoding in several processes, each with a model of its own: on a CPU one thread each, else a GPU each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse.cut import Cut

from residualformer.config.schema import DecodeConfig
from residualformer.context.scorer import Context
from residualformer.decode.corpus import Plan, decode_batch
from residualformer.journal import Map
from residualformer.model.adapter import load_adapted
from residualformer.model.checkpoint import Bundle
from residualformer.model.device import find_device
from residualformer.parallel import worker_map

_number = 0  # of this process among those that decode


class BatchDecoder(NamedTuple):
    """The decoding of a batch by a model on disk, in whatever process it is called.

    Attributes:
        model: a run folder or the model in it.
        device: one of `model.device.DEVICES`.
        plan: the branches of frames, chosen by a control of the arbitrator.
        loops: the depth of the model, see `at_depth`; None: the full one.
    """

    model: Path
    device: str
    settings: DecodeConfig
    streaming: bool
    context: Context | None = None
    plan: Plan | None = None
    loops: int | None = None

    def __call__(self, batch: Sequence[Cut]) -> dict[str, Any]:
        """Return the `Outcome` of a batch as plain values."""
        bundle = loaded(self.model, self.device, self.loops)
        return asdict(decode_batch(bundle, self.settings, batch, self.streaming, self.context, self.plan))


@cache
def loaded(model: Path, device: str, loops: int | None = None) -> Bundle:
    """Return the model of a file, read once in a process, at the depth `loops` if it is given."""
    return load_adapted(model, None, find_device(device, _number), loops)


@contextmanager
def decoding_processes(count: int) -> Iterator[Map]:
    """Yield a `map` over `count` processes. The number does not change what they compute.

    A sum over several threads may have another order, and so other last bits, than over one.
    """
    _prepare(0)
    with worker_map(count, prepare=_prepare) as map_:
        yield map_


def _prepare(number: int) -> None:
    global _number
    _number = number
    torch.set_num_threads(1)
