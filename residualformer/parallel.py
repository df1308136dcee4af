"""Work shared out to processes, over one pipe each.

The standard pools wait for ever when a process is killed while a task is written to it, and leave their processes
behind when the parent is killed; a pipe of its own tells either side at once that the other is gone.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any

from residualformer.errors import UserError


@contextmanager
def worker_map(
    jobs: int, items_at_once: int = 1, prepare: Callable[[], Any] | None = None
) -> Iterator[Callable[..., Iterator]]:
    """A `map(function, items)` over `jobs` processes (1: this one), results in order, to be used up before the next.

    Raises what `function` raises, and UserError when a process is killed. Processes are spawned (a fork would inherit
    the locks of torch's threads) and call `prepare` first.
    """
    if jobs == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    # Ctrl-C reaches every process of a terminal; those started while it is ignored leave it to this one.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(jobs):
        here, there = context.Pipe()
        processes.append(context.Process(target=_serve, args=(there, prepare), daemon=True))
        processes[-1].start()
        there.close()  # the process alone holds this end, so that its death closes the pipe
        pipes.append(here)
    signal.signal(signal.SIGINT, handler)
    try:
        yield partial(_map, pipes, items_at_once)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def _map(pipes: list[Connection], size: int, function: Callable, items: Iterable) -> Iterator:
    rest = iter(items)
    tasks = enumerate(iter(lambda: list(islice(rest, size)), []))
    idle, working, done, next_ = list(pipes), {}, {}, 0
    while True:
        for number, task in islice(tasks, len(idle)):
            pipe = idle.pop()
            with _noticing_death():
                pipe.send((function, task))
            working[pipe] = number
        if not working:
            return
        for pipe in wait(list(working)):
            with _noticing_death():
                done[working.pop(pipe)] = pipe.recv()
            idle.append(pipe)
        while next_ in done:
            results, error = done.pop(next_)
            yield from results
            if error is not None:
                raise error
            next_ += 1


@contextmanager
def _noticing_death() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        why = "most often because memory ran out"
        raise UserError(f"a worker process was killed, {why}: run it again with fewer --jobs.") from error


def _serve(pipe: Connection, prepare: Callable[[], Any] | None) -> None:
    """In a worker: answer (function, items) with (results, the error that ended them or None), until nobody asks."""
    if prepare is not None:
        prepare()
    while True:
        try:
            function, items = pipe.recv()
        except EOFError:
            return
        results: list[Any] = []
        error = None
        try:
            for item in items:
                results.append(function(item))
        except Exception as raised:
            error = raised
        try:
            pipe.send((results, error))
        except ConnectionError:  # nobody waits for it any more
            return
