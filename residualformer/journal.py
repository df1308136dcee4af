"""Results of numbered tasks, kept on disk: an interrupted command goes on, and several jobs share the work."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from residualformer.files import digest, read_log

Task = TypeVar("Task")
Map = Callable[..., Iterable[Any]]  # such as `map`, or what `parallel.worker_map` yields


class Share(NamedTuple):
    """The part of some tasks that one of several jobs does: every `total`-th, from `number` on, counted from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def has(self, task: int) -> bool:
        """Return whether a task, counted from 0, is in the share."""
        return task % self.total == self.number - 1


def share(value: str) -> Share:
    """Return the share of a job that `--job` gives as `2/8`."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"is '{value}'; give the job's number and how many there are, such as 2/8")
    return Share(int(match[1]), int(match[2]))


class Journal:
    """The finished tasks of some work, in files beside its output; each job of several has one of its own.

    Args:
        folder: where they are.
        work: all that decides the results; those of other work are ignored.
        job: the share of this process; None to do all tasks that no job has done.
    """

    def __init__(self, folder: Path, work: Mapping[str, Any], job: Share | None = None) -> None:
        self.folder = folder
        self.job = job
        self._work = digest(work)
        self._file = folder / (f".journal.{job.number}-of-{job.total}.jsonl" if job else ".journal.jsonl")

    def run(
        self, map_: Map, function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task]
    ) -> Iterator[dict[str, Any]]:
        """Yield the result of each task of this job's share, in order, and keep those that were not there yet.

        Args:
            function: gives a result of plain values, which JSON can hold.
        """
        done = self._done()
        numbers = [number for number in range(len(tasks)) if self.job is None or self.job.has(number)]
        computed = iter(map_(function, [tasks[number] for number in numbers if number not in done]))
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self._file, "a" if done else "w", encoding="utf-8") as file:
            file.write("\n")  # ends a line that was cut off
            for number in numbers:
                if number not in done:
                    result = next(computed)
                    file.write(json.dumps({"work": self._work, "task": number, "result": result}) + "\n")
                    file.flush()
                yield done.pop(number) if number in done else result

    def remove(self) -> None:
        """Remove the files of all jobs, once their results are where they belong."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(".journal*.jsonl"))

    def _done(self) -> dict[int, dict[str, Any]]:
        files = self._files() if self.job is None else [path for path in [self._file] if path.exists()]
        lines = [line for path in files for line in read_log(path)]
        return {line["task"]: line["result"] for line in lines if line.get("work") == self._work}
