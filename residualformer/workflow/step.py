"""A step: one command that makes one output, run unless it has finished before with the same options and inputs.

An interrupted command, or one whose output was lost or damaged since, runs again over what is there, and may go on from
it; one with other options or inputs runs again and says what changed.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import residualformer
from residualformer.errors import UserError
from residualformer.files import set_aside
from residualformer.journal import Share
from residualformer.lock import alone_in, held
from residualformer.model.identity import Change, IfChanged, refuse_changes
from residualformer.workflow.marker import INPUT, Marker, contents, in_words, marker_of
from residualformer.workflow.process import run_command

# Options that cannot change what is written: how fast, and what `Step.values` tell already.
WITHOUT_EFFECT = ("--jobs", "--nproc", "--nodes", "--device", "--set", "--config", "--if-changed")
VERSION = "version"  # of this package, in an identity


@dataclass(frozen=True)
class Step:
    """A command and what decides its output.

    Attributes:
        number: of the stage.
        title: what the command does, in a few words.
        command: a Python script and its arguments.
        out: the folder that it writes.
        part: names its marker and lock, `out`/`part`, where several steps write to `out`.
        makes: glob patterns of the files in `out` that later stages read.
        after: outputs that it builds on.
        values: values of the configuration that decide its output.
        inputs: fingerprints of what else decides it, by name.
        if_changed: what becomes of an output of other options: it is refused, moved to old/ or gone on with; None
            writes over it.
        log: where the command logs.
        environment: variables for the command.
    """

    number: int
    title: str
    command: Sequence[str]
    out: Path
    part: str = ""
    makes: Sequence[str] = ("*",)
    after: Sequence[Path] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    if_changed: IfChanged | None = None
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """Return the output that the marker and the lock stand for."""
        return self.out / self.part

    @property
    def marker(self) -> Path:
        """The file that remembers the step."""
        return marker_of(self.output)

    def identity(self) -> dict[str, Any]:
        """Return all that decides the output, as {name: value}; raise UserError if something before is not finished."""
        inputs = {}
        for path in self.after:
            marker = Marker.read(marker_of(path))
            if marker is None or not marker.finished:
                raise UserError(f"stage {self.number} needs {path}, which is not finished; run the stages before it.")
            inputs[f"{INPUT}{path}"] = marker.fingerprint
        inputs |= {f"{INPUT}{name}": content for name, content in self.inputs.items()}
        version = {VERSION: residualformer.__version__, "command": shlex.join(_essential(self.command))}
        return {**version, **self.values, **inputs}

    def made(self) -> dict[str, str]:
        """Return {file: content} of what the command has made."""
        return contents(self.out, self.makes)

    def state(self) -> State:
        """Return how far it is."""
        wanted, made = self.identity(), self.made()
        found = Marker.read(self.marker)
        if found is None:
            return State(wanted, None)
        lost = [name for name, content in found.made.items() if made.get(name) != content]
        return State(wanted, found, found.changes(wanted), lost, bool(made))


@dataclass(frozen=True)
class State:
    """The state of a step.

    Attributes:
        wanted: its identity now.
        found: its marker.
        changes: what is not as it was when it ran.
        lost: files that are missing or not as it made them.
        made: whether it left any.
    """

    wanted: dict[str, Any]
    found: Marker | None
    changes: Sequence[Change] = ()
    lost: Sequence[str] = ()
    made: bool = False

    @property
    def begun(self) -> bool:
        """It has run, or runs, with the same options and inputs."""
        return self.found is not None and not self.changes

    @property
    def done(self) -> bool:
        """It has finished with them, and what it made is there."""
        return self.found is not None and self.found.finished and self.begun and self.made and not self.lost


def run_step(step: Step, overwrite: bool = False) -> int:
    """Run a step unless it is done, and return the exit status of its command, 0 if it was done.

    Args:
        overwrite: run it even so.

    Raises:
        UserError: a stage before it is not finished, or another process is at work on the same output.
    """
    if not overwrite and step.state().done:
        print(f"== {_head(step)}: skipped, done before with the same options and inputs ({step.out})", flush=True)
        return 0
    print(f"== {_head(step)}", flush=True)
    with alone_in(step.output) as lock:  # before anything is moved or written
        return _run_alone(step, overwrite, lock)


def run_share(step: Step, job: Share) -> int:
    """Run the share of one job of several, unless the step is done; return the exit status of its command.

    The step itself, run after all jobs, puts their results together.
    """
    if step.state().done:
        print(f"== {_head(step)}: skipped, done before with the same options and inputs ({step.out})", flush=True)
        return 0
    print(f"== {_head(step)}, job {job}", flush=True)
    with alone_in(step.out / f"{step.part}.{job.number}-of-{job.total}") as lock:
        return run_command([sys.executable, *step.command, "--job", str(job)], step.environment, lock)


def _run_alone(step: Step, overwrite: bool, lock: int | None) -> int:
    state = step.state()
    if step.if_changed and step.out.exists() and not overwrite:
        refuse_changes(str(step.out), [each for each in state.changes if each.name != VERSION], step.if_changed)
    reasons = list(map(in_words, state.changes)) or [f"{step.out / name} is not as it was made" for name in state.lost]
    if reasons:
        print("   runs again: " + "; ".join(reasons), flush=True)
    replaced = step.if_changed and step.out.exists() and (overwrite or state.changes and step.if_changed == "aside")
    kept = set_aside(step.out) if replaced else None
    if kept:
        print(f"   what was there is kept in {kept}", flush=True)
    if step.log:
        print(f"   log: {step.log}", flush=True)
    Marker(False, state.wanted).write(step.marker)
    start = time.monotonic()
    environment = {**step.environment, **held(step.output)}
    status = run_command([sys.executable, *step.command], environment, lock)
    if status == 0:
        Marker(True, state.wanted, step.made()).write(step.marker)
        print(f"stage {step.number} done in {time.monotonic() - start:.0f} s: {step.out}", flush=True)
    elif kept and state.found and not step.out.exists():  # refused or interrupted before it wrote anything
        kept.rename(step.out)
        state.found.write(step.marker)
        print(f"   {step.out} is as it was", flush=True)
    return status


def _head(step: Step) -> str:
    return f"stage {step.number}: {step.title}"


def _essential(command: Sequence[str]) -> list[str]:
    skipped = {i + offset for i, word in enumerate(command) if word in WITHOUT_EFFECT for offset in (0, 1)}
    return [word for i, word in enumerate(command) if i not in skipped]
