"""Work shared out to processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from residualformer.errors import UserError


@contextmanager
def worker_map(jobs: int, items_at_once: int = 1, initializer: Callable[[], Any] | None = None) -> Iterator[Callable]:
    """A `map` over `jobs` processes (1: this one), in order; it stops early if its block is left by an error.

    Processes are spawned (a fork would inherit the locks of torch's threads) and run `initializer` first.
    Raises UserError when one of them is killed.
    """
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer) as pool:
        # Ctrl-C reaches every process of a terminal: what is spawned while it is ignored leaves it to this one.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(jobs):
            pool.submit(int)
        signal.signal(signal.SIGINT, handler)
        try:
            yield partial(pool.map, chunksize=items_at_once)
        except BrokenProcessPool as error:
            reason = "a worker process was killed, most often because memory ran out"
            raise UserError(f"{reason}: run it again with --jobs {jobs - 1}.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
