"""Signals that ask a training to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The process was asked to stop, and has saved the state of the training."""


@contextmanager
def signals_handled_by(handle: Callable[[], None]) -> Iterator[None]:
    """Call `handle` on SIGTERM and SIGINT within the block; after it, the previous handlers are back."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in previous:
            signal.signal(number, lambda *_: handle())
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
