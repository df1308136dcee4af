"""Items prepared ahead of their use, in a thread or in processes."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from residualformer.errors import UserError

P = TypeVar("P")
T = TypeVar("T")
_END = object()

GRACE_S = 30  # how long a worker outlives a SIGTERM to the whole group, so that the training can save its state


def loaded(plans: Iterable[P], load: Callable[[P], T], num_workers: int) -> Iterator[T]:
    """Yield `load(plan)` for each of `plans`, in order, prepared ahead by `num_workers` processes or, if 0, a thread.

    A thread of this process iterates over `plans`. With CUDA the results are in pinned memory, if they have a method
    `pin_memory`.

    Raises:
        UserError: a process was killed, or `load` raised it; then in its place.
    """
    loader: DataLoader = DataLoader(
        _Loads(load),  # type: ignore[arg-type]
        sampler=plans,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if num_workers else None,  # a fork would inherit the locks of torch's threads
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # without it, the loader would draw a number from the training's own
    )
    others = set(multiprocessing.active_children())
    with _signals_kept():
        results = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    try:
        for result in prefetch(results):
            if isinstance(result, UserError):
                raise result
            yield result
    except (RuntimeError, OSError, EOFError) as error:  # the last two from a connection to a process that is gone
        if not _one_ended(workers):
            raise
        raise UserError(
            "a process that prepares batches was killed, most often because memory or /dev/shm was full: "
            "run it again, with a smaller data.num_workers."
        ) from error


def prefetch(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Yield `items`, up to `depth` of which a thread prepares ahead.

    An exception in the thread is raised here, in its place. The thread ends with the iteration, finished or abandoned.
    """
    iterator = iter(items)
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        ahead = deque(thread.submit(next, iterator, _END) for _ in range(depth))
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(thread.submit(next, iterator, _END))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


class _Loads(Generic[P, T]):
    """A data set for DataLoader whose keys are plans; a UserError is an item, or a worker would change its text."""

    def __init__(self, load: Callable[[P], T]) -> None:
        self.load = load

    def __getitem__(self, plan: P) -> T | UserError:
        try:
            return self.load(plan)
        except UserError as error:
            return error


def _one_ended(workers: AbstractSet[BaseProcess]) -> bool:
    """Return whether a worker has ended, waiting for one that may be about to."""
    return bool(workers) and bool(wait([worker.sentinel for worker in workers], timeout=2.0))


def _outlive_signals(worker: int) -> None:
    """Let a worker ignore Ctrl-C, and live on for a while after SIGTERM; it ends with its parent in any case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Let processes that start here ignore Ctrl-C, which reaches all and is for this one to decide.

    DataLoader's own answer to the end of a process, an exception wherever this one just is, is taken back: the
    iteration finds out within seconds, too, and raises in its place.
    """
    if threading.current_thread() is not threading.main_thread():  # Python leaves signals to the main thread
        yield
        return
    kept: Any = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:  # it was installed by something other than Python
                signal.signal(number, handler)
