"""Train and decode many experiments of a recipe, one after another or several at once, each by its own run.sh.

Experiments that those given need are trained as well, each after what it needs. What is done is skipped, by the markers
of run.sh; an interrupted training goes on. A training that fails stops only those that need it. With GPUs there is one
training on each; `--jobs N` runs N at once, each on its share of the processor cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residualformer.config.composition import experiment_names
from residualformer.config.loading import complete, flat, load_config
from residualformer.config.schema import Config
from residualformer.errors import UserError, run_main
from residualformer.files import read_json
from residualformer.report.papers import Table, find_table
from residualformer.workflow.pace import Pace, pace_of, seconds_left

POLL_S, TELL_S, MERCY_S = 0.2, 900.0, 120.0  # look at the jobs, tell how far they are, wait for them to save
FIRST, LAST = 4, 7  # stages of run.sh: from training to decoding


@dataclass
class Job:
    """One experiment. `state`: waiting, running, trained, was done, failed, not run (what it needs failed)."""

    name: str
    config: Config
    needs: list[str]
    state: str = "waiting"
    why: str = ""
    process: subprocess.Popen | None = None
    slot: int = 0
    started: float = 0.0
    seconds: float = 0.0

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
        exp: folder of the run folders.
        slots: environment and processor cores (None: all) of what runs at the same time.
        known: finished trainings, here or elsewhere, to guess times by until some have run.
    """

    jobs: list[Job]
    command: list[str]
    exp: Path
    slots: list[tuple[dict[str, str], set[int] | None]]
    known: list[Pace] = field(default_factory=list)

    def run(self) -> bool:
        """Run all; says whether all went well. Interrupted, it lets the running trainings save and end."""
        told = time.monotonic()
        try:
            while not all(job.over for job in self.jobs):
                self._start()
                for job in self._running():
                    if job.process.poll() is not None:
                        self._finish(job)
                if time.monotonic() - told > TELL_S:
                    told = time.monotonic()
                    print(f"   {', '.join(map(self._progress, self._running()))}; {self.time_left()}", flush=True)
                time.sleep(POLL_S)
        finally:
            self._end_all()
            print(self.summary(), flush=True)
        return all(job.good for job in self.jobs)

    def _start(self) -> None:
        """Start what can be, in the order of the jobs."""
        states = {job.name: job for job in self.jobs}
        for job in self.jobs:
            if job.state != "waiting":
                continue
            bad = [name for name in job.needs if states[name].over and not states[name].good]
            free = set(range(len(self.slots))) - {other.slot for other in self._running()}
            if bad:
                job.state, job.why = "not run", f"it needs {bad[0]}"
            elif free and all(states[name].good for name in job.needs):
                self._launch(job, min(free))

    def _launch(self, job: Job, slot: int) -> None:
        environment, cores = self.slots[slot]
        command = [*self.command, "--stage", str(FIRST), "--stop-stage", str(LAST), "--experiments", job.name]

        def prepare() -> None:  # in the new process; what is started in the background would ignore interrupts
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if cores:
                os.sched_setaffinity(0, cores)

        self.log(job).parent.mkdir(parents=True, exist_ok=True)
        left = self.seconds_left()[job.name]
        with open(self.log(job), "w", encoding="utf-8") as log:
            job.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=prepare,
                env=os.environ | environment, start_new_session=True,
            )  # fmt: skip
        job.state, job.slot, job.started = "running", slot, time.monotonic()
        print(f"== {self._place(job)} {job.name}: {duration(left)}; log: {self.log(job)}", flush=True)

    def _finish(self, job: Job) -> None:
        job.seconds = time.monotonic() - job.started
        text = self.log(job).read_text(encoding="utf-8", errors="replace")
        if job.process.returncode == 0:
            job.state = "was done" if f"train {job.name}: skipped" in text else "trained"
        else:
            lines = [line for line in text.splitlines() if line.strip()]
            job.state, job.why = "failed", lines[-1] if lines else f"exit status {job.process.returncode}"
        what = f"{job.state} ({job.why})" if job.why else job.state
        print(f"   {self._place(job)} {job.name}: {what}, {duration(job.seconds)}; {self.time_left()}", flush=True)

    def _end_all(self) -> None:
        """Interrupt what still runs, as Ctrl-C in a terminal does, and wait until it has saved."""
        for job in self._running():
            os.killpg(job.process.pid, signal.SIGINT)
        for job in self._running():
            try:
                job.process.wait(MERCY_S)
            except subprocess.TimeoutExpired:
                os.killpg(job.process.pid, signal.SIGKILL)
            job.state, job.seconds = "waiting", time.monotonic() - job.started

    def _running(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "running"]

    def log(self, job: Job) -> Path:
        return self.exp / "log" / f"{job.name}.log"

    def _place(self, job: Job) -> str:
        return f"[{self.jobs.index(job) + 1}/{len(self.jobs)}]"

    def _progress(self, job: Job) -> str:
        own = pace_of(self.exp / job.name)
        return f"{job.name} {own.steps if own else 0}/{job.config.train.max_steps}"

    def marker(self, job: Job) -> dict[str, Any]:
        """What run.sh noted of the training as it, and what it needs, are configured now; empty if it did not begin."""
        path = self.exp / f".{job.name}.done"
        content = read_json(path, "run it again") if path.is_file() else {}
        noted = content.get("identity", {})
        before = complete(noted)  # a new key had its default
        sections = {key.partition(".")[0] for key in noted}  # on which a training depends
        own = [(key, value) for key, value in flat(job.config).items() if key.partition(".")[0] in sections]
        same = all(before[key] == value for key, value in own)
        return content if same and all(self.finished(each) for each in self.jobs if each.name in job.needs) else {}

    def finished(self, job: Job) -> bool:
        return self.marker(job).get("finished") is True

    def seconds_left(self) -> dict[str, float | None]:
        """Of each job's training; None where nothing is known to guess by."""
        paces = {job.name: pace_of(self.exp / job.name) for job in self.jobs}
        left: dict[str, float | None] = {}
        for job in self.jobs:
            here = [pace for pace in paces.values() if pace]
            marker = {} if job.over else self.marker(job)
            if job.over or (job.state == "waiting" and marker.get("finished") is True):
                left[job.name] = 0.0
            else:
                here_left = seconds_left(job.config, paces[job.name] if marker else None, here)
                left[job.name] = seconds_left(job.config, None, self.known) if here_left is None else here_left
        return left

    def time_left(self) -> str:
        """Of all that is waiting or running, in words."""
        left = [seconds for seconds in self.seconds_left().values() if seconds != 0]
        if not left:
            return "no training is left"
        unknown = f", and {left.count(None)} of unknown length" if None in left else ""
        known = [seconds for seconds in left if seconds is not None]
        total = max(sum(known) / len(self.slots), max(known, default=0.0))
        return f"{len(left)} left, {duration(total) if known else 'no training to guess their time by'}{unknown}"

    def plan(self) -> str:
        """What `run` would do."""
        lines = []
        every = self.seconds_left()
        for job in self.jobs:
            left = every[job.name]
            what = "trained already" if left == 0 else f"{job.config.train.max_steps} updates, {duration(left)}"
            lines.append((job.name, what + (f", after {', '.join(job.needs)}" if job.needs and left != 0 else "")))
        width = max(len(name) for name, _ in lines)
        return "\n".join([*(f"  {name:{width}}  {what}" for name, what in lines), self.time_left()])

    def summary(self) -> str:
        width = max(len(job.name) for job in self.jobs)
        lines = [
            f"  {job.name:{width}}  {job.state}, {duration(job.seconds)}{': ' + job.why if job.why else ''}"
            for job in self.jobs
        ]
        counts = [f"{sum(job.state == state for job in self.jobs)} {state}" for state in
                  ("trained", "was done", "failed", "not run", "waiting")]  # fmt: skip
        return "\n".join(["== summary: " + ", ".join(count for count in counts if count[0] != "0"), *lines])


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "of unknown length"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"about {minutes / 60 / 24:.0f} days"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def main() -> None:
    args = parse_arguments()
    conf, egs, script = Path("conf", args.recipe), Path("egs", args.name), Path("egs", args.recipe, "run.sh")
    if not script.is_file():
        raise UserError(f"there is no recipe '{args.recipe}': {script} is missing.")
    tables = [find_table(Path("conf/tables"), name) for name in args.table]
    asked = [*args.experiments, *(name for table in tables for name in table.experiments)]
    known = experiment_names(conf)
    lacking = [name for name in dict.fromkeys(asked) if name not in known]
    if lacking:
        print(f"not in {conf}, their cells stay empty: {', '.join(lacking)}")
    names = [name for name in dict.fromkeys(asked) if name not in lacking]
    if not names:
        raise UserError(f"{conf} has none of the experiments: {', '.join(asked) or 'none was given'}.")
    sets = [word for each in args.set for word in ("--set", each)]
    command = ["bash", str(script), *args.options, *sets]
    chosen = egs / "data/manifests/chosen.yaml"  # by stage 1, for the corpus
    jobs = plan(conf, names, [f"@{chosen}", *args.set] if chosen.is_file() else args.set)
    for table in tables:
        refuse_other_task(table, args.recipe, jobs)
    queue = Queue(jobs, command, egs / "exp", slots(args.jobs, gpus()), known_results())
    print(queue.plan(), flush=True)
    if args.dry_run:
        return
    status = subprocess.run([*command, "--stage", "0", "--stop-stage", "3", "--experiments", names[0]]).returncode
    if status:
        sys.exit(status)
    if not queue.run():
        sys.exit(1)


def refuse_other_task(table: Table, recipe: str, jobs: Sequence[Job]) -> None:
    """UserError where the recipe translates and the table is about recognition, or the other way round."""
    translates = jobs[0].config.tokens.target == "translation"
    if translates != (table.metric == "BLEU"):
        does = "translates" if translates else "recognises"
        raise UserError(
            f"{table.name} is about {table.metric}, but recipe '{recipe}' {does}; take a table or a recipe of the same "
            "task."
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="whose egs/RECIPE/run.sh and conf/RECIPE/ are used")
    parser.add_argument("--name", help="your own data: results are in egs/NAME (default: egs/RECIPE)")
    parser.add_argument("--table", action="append", default=[], help="all experiments of conf/tables/TABLE.yaml")
    parser.add_argument("--jobs", type=int, default=0, help="how many at once (default: one for each GPU, else one)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be trained, and how long it takes")
    parser.add_argument("--experiments", nargs="*", default=[], help="names of conf/RECIPE/<name>.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="another value in all of them")
    parser.add_argument("options", nargs="*", help="after `--`: further options of run.sh")
    args = parser.parse_args()
    if args.jobs < 0:
        parser.error(f"--jobs {args.jobs}: give 1 or more, or 0 for one on each GPU")
    if args.name is not None:
        args.options = ["--name", args.name, *args.options]
    args.name = args.name or args.recipe
    return args


def plan(conf: Path, names: Sequence[str], sets: Sequence[str]) -> list[Job]:
    """The experiments and all that they need, each after what it needs, as utils/plan.py tells."""
    while True:
        command = [sys.executable, "utils/plan.py", *(f"--set={each}" for each in sets), "--", str(conf), *names]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)  # it has said why
        lines = [line.split() for line in done.stdout.splitlines()]
        further = {name for _, _, *needs in lines for name in needs} - set(names)
        if not further:
            return [Job(name, load_config(conf / f"{name}.yaml", sets), needs) for name, _, *needs in lines]
        names = [*names, *sorted(further)]


def gpus() -> list[str]:
    """Ids of the GPUs that may be used."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each for each in visible.split(",") if each.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def slots(jobs: int, devices: Sequence[str]) -> list[tuple[dict[str, str], set[int] | None]]:
    """Where `jobs` trainings (0: one for each GPU, else one) run at the same time."""
    jobs = jobs or len(devices) or 1
    if devices:
        return [({"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]}, None) for i in range(jobs)]
    if jobs == 1:
        return [({}, None)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = max(1, (len(cores) or os.cpu_count() or 1) // jobs)
    shares = [{cores[(i * each + k) % len(cores)] for k in range(each)} if cores else None for i in range(jobs)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(each))  # path.sh has set both, to all cores
    return [(threads, share) for share in shares]


def known_results() -> list[Pace]:
    """Finished trainings of all recipes, here (egs/*/exp/results.json) or published (docs/results/*/results.json)."""
    paces = []
    own = {path: path.parents[1].name for path in sorted(Path("egs").glob("*/exp/results.json"))}
    published = {path: path.parent.name for path in sorted(Path("docs/results").glob("*/results.json"))}
    for path, recipe in (own | published).items():
        for row in read_json(path, "run stage 8 again")["rows"]:
            steps, wall_s = (row["training"].get(key, 0) for key in ("steps", "wall_s"))
            conf = Path("conf", recipe)
            if steps and wall_s and row["experiment"] in experiment_names(conf):
                paces.append(Pace(load_config(conf / f"{row['experiment']}.yaml"), steps, wall_s))
    return paces


if __name__ == "__main__":
    run_main(main)
