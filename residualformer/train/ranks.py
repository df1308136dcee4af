"""The processes of one training, which share the batches of each update: ranks, as torch.distributed calls them.

Gradients are summed by hand instead of by DistributedDataParallel, which needs every parameter to get a gradient in
every update on every rank: phases train a part of the model, branches are not always used, and a rank may have no
batch with a finite loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from residualformer.model.device import find_device

BUCKET_BYTES = 25 * 2**20  # of gradients that are summed at once, as in PyTorch's own

T = TypeVar("T")
Sent = tuple[list[Tensor], Tensor, Any]  # tensors, all their elements in one, the communication under way


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training, seen from one of them. A training in a single process communicates with nobody.

    All ranks must call the methods in the same order. Results are the same bits on all ranks.
    """

    rank: int = 0  # number of this process; rank 0 writes all files
    world: int = 1  # how many processes there are
    device: torch.device = field(default_factory=find_device)  # of this process
    _memory: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False, compare=False)  # see `_joined`

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.sum([0.0])  # of nothing at all would not wait

    def gather(self, value: T) -> list[T]:
        """Return the `value` of each rank. It may be of any type, and is copied to the CPU on the way."""
        if self.world == 1:
            return [value]
        values: list[T] = [value] * self.world
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: T) -> T:
        """Return the `value` of rank 0; that of other ranks is ignored."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each of `numbers` over all ranks."""
        if self.world == 1:
            return [float(number) for number in numbers]
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(number) for number in total]

    def sum_gradients(self, parameters: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Replace the gradients of `parameters` by their sums over all ranks; return the sums of `numbers`.

        The gradients are valid until the next call, which uses their memory again.
        A gradient that some ranks lack counts as zeros there; one that all lack stays missing, so that its parameter
        does not change.
        """
        if self.world == 1:
            return self.sum(numbers)
        totals = self.sum([*numbers, *(parameter.grad is not None for parameter in parameters)])
        counts = totals[len(numbers) :]
        buckets: list[Sent] = []
        for bucket in _buckets([p for p, count in zip(parameters, counts, strict=True) if count]):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = self._joined("gradients", len(buckets), gradients)
            buckets.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in buckets:
            work.wait()
            for parameter, part in _parts(bucket, flat):
                parameter.grad = part
        return totals[: len(numbers)]

    @torch.no_grad()
    def share(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Replace each of `tensors` by that of the rank which owns it."""
        if self.world == 1:
            return
        sent: list[Sent] = []
        for owner in range(self.world):
            own = [tensor for tensor, its_owner in zip(tensors, owners, strict=True) if its_owner == owner]
            for bucket in _buckets(own):
                flat = self._joined("shared", len(sent), bucket)
                sent.append((bucket, flat, dist.broadcast(flat, owner, async_op=True)))
        for bucket, flat, work in sent:
            work.wait()
            for tensor, part in _parts(bucket, flat):
                tensor.copy_(part)

    def _joined(self, purpose: str, number: int, tensors: Sequence[Tensor]) -> Tensor:
        """Return all elements of `tensors`, which are of one type, in memory that is kept for this `purpose`.

        To ask the system for new memory in each update would take longer than the communication.
        """
        flat = [tensor.flatten() for tensor in tensors]
        size = sum(map(len, flat))
        kept = self._memory.get((purpose, number))
        if kept is None or (kept.dtype, kept.device, len(kept)) != (flat[0].dtype, flat[0].device, size):
            kept = self._memory[purpose, number] = flat[0].new_empty(size)
        return torch.cat(flat, out=kept)


@contextmanager
def joined_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the ranks that torchrun has started, by its variables in the environment; without them, yield one alone.

    Ranks with a GPU each exchange gradients by NCCL, others by Gloo.

    Args:
        device: one of `model.device.DEVICES`; of several GPUs each rank takes its own.
    """
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    found = find_device(device, local)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    if world == 1:
        yield Ranks(device=found)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo")
    yield Ranks(rank, world, found)
    # Not after an error: the others, which wait for this process, must not fail before it has told why.
    dist.destroy_process_group()


def is_rank() -> bool:
    """Return whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group parameters of one type and device, in their order, up to `BUCKET_BYTES` or a single one."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        group = groups.setdefault((parameter.dtype, parameter.device), [])
        if group and sum(p.nbytes for p in (*group, parameter)) > BUCKET_BYTES:
            yield list(group)
            group.clear()
        group.append(parameter)
    yield from (group for group in groups.values() if group)


def _parts(bucket: Sequence[Tensor], flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each tensor of a bucket with the part of `flat` that stands for it, in its shape."""
    for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        yield tensor, part.view_as(tensor)
