"""A queue of trainings: each runs by run.sh when what it needs is trained, some at the same time.

A training that fails stops only those that need it. What is done is skipped, by the markers of the stages; an
interrupted training goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from residualformer.errors import UserError
from residualformer.workflow.pace import Pace, duration, pace_of, seconds_left
from residualformer.workflow.plan import Experiment
from residualformer.workflow.recipe import Recipe
from residualformer.workflow.step import State

POLL_S = 0.2  # between looks at the jobs
TELL_S = 900.0  # between reports of how far they are
MERCY_S = 120.0  # to save, once interrupted
FIRST, LAST = 4, 7  # stages: from training to decoding


class Slot(NamedTuple):
    """A place where one training runs: variables of its environment, and processor cores (None: all)."""

    environment: dict[str, str]
    cores: set[int] | None


@dataclass
class Job:
    """An experiment to be trained and decoded; `not run` is the state of one that needs one that failed."""

    experiment: Experiment
    state: Literal["waiting", "running", "trained", "was done", "failed", "not run"] = "waiting"
    why: str = ""
    process: subprocess.Popen[bytes] | None = None
    was_done: bool = False
    slot: int = 0
    started: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def good(self) -> bool:
        return self.state in ("trained", "was done")


@dataclass
class Queue:
    """The jobs of a recipe.

    Attributes:
        jobs: each after those that it needs.
        command: run.sh with its options, but for stages and experiments.
        slots: where jobs run at the same time.
        known: finished trainings of any recipe, to estimate times until some have run here.
    """

    recipe: Recipe
    jobs: list[Job]
    command: list[str]
    slots: list[Slot]
    known: list[Pace] = field(default_factory=list)

    def run(self) -> bool:
        """Run all jobs; return whether all went well. Interrupted, let the running trainings save and end."""
        told = time.monotonic()
        try:
            while not all(job.over for job in self.jobs):
                self._start()
                for job in self._running():
                    if job.process is not None and job.process.poll() is not None:
                        self._finish(job, job.process.returncode)
                if time.monotonic() - told > TELL_S:
                    told = time.monotonic()
                    print(f"   {', '.join(map(self._progress, self._running()))}; {self.time_left()}", flush=True)
                time.sleep(POLL_S)
        finally:
            self._end_all()
            print(self.summary(), flush=True)
        return all(job.good for job in self.jobs)

    def _start(self) -> None:
        """Start what can be started, in the order of the jobs."""
        by_name = {job.name: job for job in self.jobs}
        for job in self.jobs:
            if job.state != "waiting":
                continue
            needed = [by_name[name] for name in job.experiment.needs]
            bad = [other.name for other in needed if other.over and not other.good]
            free = set(range(len(self.slots))) - {other.slot for other in self._running()}
            if bad:
                job.state, job.why = "not run", f"it needs {bad[0]}"
            elif free and all(other.good for other in needed):
                self._launch(job, min(free))

    def _launch(self, job: Job, slot: int) -> None:
        environment, cores = self.slots[slot]
        command = [*self.command, "--stage", str(FIRST), "--stop-stage", str(LAST), "--experiments", job.name]

        def prepare() -> None:  # in the new process; what is started in the background would ignore interrupts
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if cores:
                os.sched_setaffinity(0, cores)

        self.log(job).parent.mkdir(parents=True, exist_ok=True)
        left, state = self.seconds_left()[job.name], training_state(self.recipe, job.experiment)
        job.was_done = state is not None and state.done
        with open(self.log(job), "w", encoding="utf-8") as log:
            job.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=prepare,
                env=os.environ | environment,
                start_new_session=True,
            )
        job.state, job.slot, job.started = "running", slot, time.monotonic()
        print(f"== {self._place(job)} {job.name}: {duration(left)}; log: {self.log(job)}", flush=True)

    def _finish(self, job: Job, status: int) -> None:
        job.seconds = time.monotonic() - job.started
        if status == 0:
            job.state = "was done" if job.was_done else "trained"
        else:
            text = self.log(job).read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            job.state, job.why = "failed", lines[-1] if lines else f"exit status {status}"
        what = f"{job.state} ({job.why})" if job.why else job.state
        print(f"   {self._place(job)} {job.name}: {what}, {duration(job.seconds)}; {self.time_left()}", flush=True)

    def _end_all(self) -> None:
        """Interrupt what still runs, as Ctrl-C in a terminal does, and wait until it has saved."""
        running = [(job, job.process) for job in self._running() if job.process is not None]
        for _, process in running:
            os.killpg(process.pid, signal.SIGINT)
        for job, process in running:
            try:
                process.wait(MERCY_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            job.state, job.seconds = "waiting", time.monotonic() - job.started

    def _running(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "running"]

    def log(self, job: Job) -> Path:
        """Return the file of what a job prints."""
        return self.recipe.exp / "log" / f"{job.name}.log"

    def _place(self, job: Job) -> str:
        return f"[{self.jobs.index(job) + 1}/{len(self.jobs)}]"

    def _progress(self, job: Job) -> str:
        own = pace_of(self.recipe.exp / job.name)
        return f"{job.name} {own.steps if own else 0}/{job.experiment.config.train.max_steps}"

    def seconds_left(self) -> dict[str, float | None]:
        """Estimate the time that each job's training still takes; None without a training to estimate it by."""
        paces = {job.name: pace_of(self.recipe.exp / job.name) for job in self.jobs}
        here = [pace for pace in paces.values() if pace]
        left: dict[str, float | None] = {}
        for job in self.jobs:
            state = None if job.over else training_state(self.recipe, job.experiment)
            if job.over or (job.state == "waiting" and state is not None and state.done):
                left[job.name] = 0.0
            else:
                config, own = job.experiment.config, paces[job.name] if state is not None and state.begun else None
                guess = seconds_left(config, own, here)
                left[job.name] = seconds_left(config, None, self.known) if guess is None else guess
        return left

    def time_left(self) -> str:
        """Return, in words, how long all that is waiting or running takes."""
        left = [seconds for seconds in self.seconds_left().values() if seconds != 0]
        if not left:
            return "no training is left"
        unknown = f", and {left.count(None)} of unknown length" if None in left else ""
        known = [seconds for seconds in left if seconds is not None]
        total = max(sum(known) / len(self.slots), max(known, default=0.0))
        return f"{len(left)} left, {duration(total) if known else 'no training to guess their time by'}{unknown}"

    def plan(self) -> str:
        """Return what `run` would do, as one line for each job."""
        left = self.seconds_left()
        width = max(len(job.name) for job in self.jobs)
        lines = []
        for job in self.jobs:
            what, needs = "trained already", job.experiment.needs
            if left[job.name] != 0:
                what = f"{job.experiment.config.train.max_steps} updates, {duration(left[job.name])}"
                what += f", after {', '.join(needs)}" if needs else ""
            lines.append(f"  {job.name:{width}}  {what}")
        return "\n".join([*lines, self.time_left()])

    def summary(self) -> str:
        """Return the outcome of each job, in a line, under the counts."""
        width = max(len(job.name) for job in self.jobs)
        lines = []
        for job in self.jobs:
            why = f": {job.why}" if job.why else ""
            lines.append(f"  {job.name:{width}}  {job.state}, {duration(job.seconds)}{why}")
        states = [job.state for job in self.jobs]
        kinds = [kind for kind in ("trained", "was done", "failed", "not run", "waiting") if kind in states]
        return "\n".join(["== summary: " + ", ".join(f"{states.count(kind)} {kind}" for kind in kinds), *lines])


def training_state(recipe: Recipe, experiment: Experiment) -> State | None:
    """Return the state of a training; None if what it builds on is not finished."""
    try:
        return recipe.training(experiment).state()
    except UserError:
        return None


def gpus() -> list[str]:
    """Return the ids of the GPUs that may be used."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each for each in visible.split(",") if each.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def slots(jobs: int, devices: Sequence[str], nproc: int = 0) -> list[Slot]:
    """Return where `jobs` trainings of `nproc` processes run at the same time.

    With GPUs each process has one; without, each training has an equal share of the processor cores, a core or more for
    each process.

    Args:
        jobs: 0 for as many as there are GPUs for, else one.
        nproc: 0 for one process on a GPU, and what steps/train.py chooses without one.
    """
    if devices:
        each = min(nproc or 1, len(devices))
        shares = [
            [devices[(i * each + k) % len(devices)] for k in range(each)] for i in range(jobs or len(devices) // each)
        ]
        return [Slot({"CUDA_VISIBLE_DEVICES": ",".join(share)}, None) for share in shares]
    if jobs <= 1:
        return [Slot({}, None)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = max(1, nproc, (len(cores) or os.cpu_count() or 1) // jobs)
    parts = [{cores[(i * each + k) % len(cores)] for k in range(each)} if cores else None for i in range(jobs)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(each))  # path.sh has set both, to all cores
    return [Slot(threads, part) for part in parts]
