"""Preparation of items in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    """An exception of the thread, to raise again in the consumer."""

    error: BaseException


_END = object()


def prefetch(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Yield `items`, up to `depth` of which a thread prepares ahead.

    An exception in the thread is raised here, in its place. The thread ends with the iteration, finished or abandoned.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(value: object) -> bool:
        while not abandoned.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))

    threading.Thread(target=work, daemon=True, name="batches").start()
    try:
        while (value := ready.get()) is not _END:
            if isinstance(value, _Failure):
                raise value.error
            yield value
    finally:
        abandoned.set()
