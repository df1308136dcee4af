"""Finished tasks are kept: an interrupted command goes on, jobs share the work, other work is ignored."""

from __future__ import annotations

import argparse
import os
import signal

import pytest

from residualformer.errors import UserError
from residualformer.journal import Journal, Share, share
from residualformer.parallel import worker_map

WORK = {"model": "a", "beam": 4}
THIRDS = [{"third": number / 3} for number in range(7)]


def third(number: int) -> dict[str, float]:
    return {"third": number / 3}


def third_or_die(number: int) -> dict[str, float]:
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return third(number)


def never(number: int) -> dict[str, float]:
    raise AssertionError(f"{number} was done before")


def test_what_is_done_is_not_done_again_and_results_stay_in_order(tmp_path):
    results = Journal(tmp_path, WORK).run(map, third, range(7))
    assert [next(results) for _ in range(3)] == THIRDS[:3]
    results.close()
    done = []
    assert (
        list(Journal(tmp_path, WORK).run(map, lambda number: done.append(number) or third(number), range(7))) == THIRDS
    )
    assert done == [3, 4, 5, 6]
    journal = Journal(tmp_path, WORK)
    assert list(journal.run(map, never, range(7))) == THIRDS
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_jobs_share_the_work_and_what_they_left_undone_is_done_at_the_end(tmp_path):
    for number in (3, 1):
        job = Share(number, 3)
        mine = [n for n in range(7) if n % 3 == number - 1]
        assert list(Journal(tmp_path, WORK, job).run(map, third, range(7))) == [THIRDS[n] for n in mine]
    done = []
    assert (
        list(Journal(tmp_path, WORK).run(map, lambda number: done.append(number) or third(number), range(7))) == THIRDS
    )
    assert done == [1, 4]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_is_done_again_and_spoils_no_other(tmp_path, cut):
    list(Journal(tmp_path, WORK).run(map, third, range(5)))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    results = Journal(tmp_path, WORK).run(map, third, range(7))
    assert [next(results) for _ in range(6)] == THIRDS[:6]
    results.close()
    assert list(Journal(tmp_path, WORK).run(map, lambda n: third(n) if n == 6 else never(n), range(7))) == THIRDS


def test_results_of_other_work_are_ignored(tmp_path):
    list(Journal(tmp_path, WORK | {"beam": 2}).run(map, lambda number: {"third": 0}, range(7)))
    assert list(Journal(tmp_path, WORK).run(map, third, range(7))) == THIRDS


def test_a_killed_process_loses_nothing_that_was_yielded(tmp_path):
    kept = []
    with pytest.raises(UserError, match="a worker process was killed"), worker_map(2) as map_:
        kept.extend(Journal(tmp_path, WORK).run(map_, third_or_die, range(4)))
        for result in Journal(tmp_path, WORK).run(map_, third_or_die, range(7)):
            kept.append(result)
    assert kept[:4] == THIRDS[:4]
    assert list(Journal(tmp_path, WORK).run(map, lambda n: never(n) if n < 4 else third(n), range(7))) == THIRDS


@pytest.mark.parametrize("value", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_job_is_one_of_a_number_of_jobs(value):
    assert share("2/8") == Share(2, 8) and str(share("2/8")) == "2/8"
    with pytest.raises(argparse.ArgumentTypeError, match="such as 2/8"):
        share(value)
