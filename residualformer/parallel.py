"""A map over worker processes that notices when a process is killed.

The standard pools hang when a worker is killed while a task is written to it, and leave workers behind when the parent
is killed. With one pipe per worker, either side notices at once that the other is gone.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from residualformer.errors import UserError

_Answer = tuple[list[Any], Exception | None]  # results, and the error that ended them


@contextmanager
def worker_map(
    jobs: int, items_at_once: int = 1, prepare: Callable[[int], Any] | None = None
) -> Iterator[Callable[..., Iterator]]:
    """Yield a `map(function, items)` over `jobs` processes, or in this process if `jobs` is 1.

    Results come in order. Use up one map before starting the next. Processes are spawned, because a fork would inherit
    the locks of torch's threads.
    A process calls `prepare` with its number, 0 to jobs - 1, first, and gets `items_at_once` items at a time. Raises
    UserError if one was killed; exceptions of `function` are raised as they are.
    """
    if jobs == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    ensure_running()  # the tracker, which unblocks SIGINT
    try:
        with processes_without_interrupts():
            for number in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, prepare, number), daemon=True)
                process.start()
                theirs.close()  # only the process holds this end now, so that its death closes the pipe
                processes.append(process)
                pipes.append(ours)
        yield partial(_map, pipes, items_at_once)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def processes_without_interrupts() -> Iterator[None]:
    """Let processes that are started here ignore SIGINT, so that Ctrl-C in a terminal is left to this process.

    One that comes meanwhile reaches this process afterwards; it is not lost, as it would be if it were ignored alone.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _map(pipes: list[Connection], items_at_once: int, function: Callable, items: Iterable) -> Iterator:
    remaining = iter(items)
    tasks = enumerate(iter(lambda: list(islice(remaining, items_at_once)), []))
    idle = list(pipes)
    working: dict[Connection, int] = {}  # the number of the task that each pipe's process works on
    done: dict[int, _Answer] = {}
    next_task = 0
    while True:
        for number, task in islice(tasks, len(idle)):
            pipe = idle.pop()
            with _noticing_death():
                pipe.send((function, task))
            working[pipe] = number
        if not working:
            return
        for pipe in [pipe for pipe in wait(list(working)) if isinstance(pipe, Connection)]:
            with _noticing_death():
                done[working.pop(pipe)] = pipe.recv()
            idle.append(pipe)
        while next_task in done:
            results, error = done.pop(next_task)
            yield from results
            if error is not None:
                raise error
            next_task += 1


@contextmanager
def _noticing_death() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        why = "most often because memory ran out"
        raise UserError(f"a worker process was killed, {why}: run it again with fewer --jobs.") from error


def _work(pipe: Connection, prepare: Callable[[int], Any] | None, number: int) -> None:
    """Answer tasks with results and the error that ended them, if any, until the parent is gone. Runs in a worker."""
    if prepare is not None:
        prepare(number)
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
        except ConnectionError:  # the parent is gone
            return
