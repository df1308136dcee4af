"""Batches prepared by processes: the same as by a thread; a killed one is told, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_batches import same, train_batches

from residualformer.data.batches import Position
from residualformer.data.loading import loaded
from residualformer.errors import UserError

TESTS = Path(__file__).parents[1]
LIMIT_S = 120.0  # for what takes seconds on a quiet machine

PROGRAM = """
import multiprocessing, signal, sys
from pathlib import Path
from typing import Any
from support.training_batches import train_batches
from residualformer.data.batches import Position

heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
updates = train_batches(Path(sys.argv[1]), num_workers=2).updates(Position(), 1)
next(updates)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
while not heard:
    next(updates)
for _ in range(100):
    next(updates)
print("goes on", flush=True)
while True:
    next(updates)
"""


def test_batches_do_not_depend_on_the_number_of_processes(cuts_path):
    changes = {"concat_probability": 0.5, "pad_start_ms": 200}
    state = torch.get_rng_state()
    by_thread = list(islice(train_batches(cuts_path, **changes).updates(Position(0, 2), 2), 12))
    by_processes = list(islice(train_batches(cuts_path, num_workers=2, **changes).updates(Position(0, 2), 2), 12))
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the training's own numbers
    for one, other in zip(by_thread, by_processes, strict=True):
        assert one.end == other.end and [n for n, _ in one.batches] == [n for n, _ in other.batches]
        assert all(same(a, b) for (_, a), (_, b) in zip(one.batches, other.batches))


def test_a_killed_process_and_a_mistake_in_one_are_told(cuts_path, tmp_path):
    handler = signal.getsignal(signal.SIGCHLD)
    updates = train_batches(cuts_path, num_workers=1).updates(Position(), 1)
    next(updates)
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert signal.getsignal(signal.SIGCHLD) == handler  # so nothing is raised here, far from the data
    with pytest.raises(UserError, match="a process that prepares batches was killed"):
        for _ in range(1000):  # some are ready
            next(updates)
    results = loaded(range(3), refuse_one, num_workers=1)
    assert next(results) == 0
    with pytest.raises(UserError, match="^1 is refused$"):
        next(results)


class Lost:
    """A result that cannot be received, as its process is killed or only its connection fails."""

    def __init__(self, killed: bool) -> None:
        self.killed = killed

    def __reduce__(self) -> tuple[Any, ...]:
        return lose, (os.getpid() if self.killed else None,)


def lose(process: int | None) -> None:
    if process is not None:
        os.kill(process, signal.SIGKILL)
    raise ConnectionResetError


def test_a_process_killed_while_it_sends_is_told_and_other_failures_are_not_taken_for_that():
    with pytest.raises(UserError, match="a process that prepares batches was killed"):
        next(loaded([True], Lost, num_workers=1))
    with pytest.raises(ConnectionResetError):
        next(loaded([False], Lost, num_workers=1))


def refuse_one(number: int) -> int:
    if number == 1:
        raise UserError("1 is refused")
    return number


def test_processes_outlive_ctrl_c_and_end_with_their_parent(cuts_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(cuts_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.readline() == "goes on\n"
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + LIMIT_S
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
