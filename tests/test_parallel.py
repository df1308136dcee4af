"""A map over processes: order, errors, and what happens when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from residualformer.errors import UserError
from residualformer.parallel import worker_map


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # so that they do not finish in order
    if number == 5:
        raise OSError(28, "No space left on device", "file")
    return number * number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_id(padding: bytes) -> int:
    return os.getpid()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_results_are_in_order_whatever_the_processes():
    for jobs in (1, 2):
        with worker_map(jobs, items_at_once=2) as map_:
            assert list(map_(square, range(5))) == [0, 1, 4, 9, 16]
            assert list(map_(square, [7])) == [49] and list(map_(square, [])) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_after_the_results_before_it(jobs):
    results = []
    with pytest.raises(OSError) as caught, worker_map(jobs, items_at_once=3) as map_:
        for result in map_(square, range(9)):
            results.append(result)
    assert results == [0, 1, 4, 9, 16] and caught.value.filename == "file"


def test_a_killed_process_is_an_error_and_leaves_none_behind():
    started = time.monotonic()
    with pytest.raises(UserError, match="was killed.*fewer --jobs"), worker_map(2) as map_:
        pids = set(map_(process_id, [bytes(1 << 20)] * 8))  # more than a pipe holds
        list(map_(die, range(9)))
    assert time.monotonic() - started < 30 and len(pids) == 2 and not any(map(alive, pids))


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\nfrom test_parallel import process_id, worker_map\n"
        "if __name__ == '__main__':\n    with worker_map(2) as map_:\n"
        "        print(*set(map_(process_id, [b''] * 20)), flush=True)\n        time.sleep(60)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids and not any(map(alive, pids))
