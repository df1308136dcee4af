"""Slurm, as a stand-in that runs jobs at once on this machine: what is submitted, several machines, saving in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fake_recipe import DATA, Recipe
from support.programs import run_program

FAKES = {
    # Runs a script at once, as often as its array has jobs.
    "sbatch": r"""
echo "$*" >>"$SUBMITTED"
array=
while [ "$1" != utils/slurm_job.sh ]; do if [ "$1" = --array ]; then array=${2#1-}; fi; shift; done
export SLURM_JOB_ID=$(wc -l <"$SUBMITTED") SLURM_NODEID=0 SLURM_ARRAY_TASK_COUNT=$array
for SLURM_ARRAY_TASK_ID in $(seq 1 "${array:-1}"); do
    export SLURM_ARRAY_TASK_ID
    if [ -z "$array" ]; then unset SLURM_ARRAY_TASK_ID; fi
    bash "$@" >&2 || exit
done
echo "$SLURM_JOB_ID;cluster"
""",
    # Runs a command on each of two machines, which are this one.
    "srun": r"""
[ "$1 $2 $3" = "--nodes=2 --ntasks=2 --ntasks-per-node=1" ] || exit 9
shift 4
trap 'kill $first $second' TERM
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first; one=$?
wait $second; two=$?
exit $((one > two ? one : two))
""",
    "scontrol": 'echo "$*" >>"$SUBMITTED"',
}
RANKS = """
import sys
from pathlib import Path
from residualformer.train.launch import launch, run_rank
from residualformer.train.nodes import spread
from residualformer.train.ranks import is_rank, joined_ranks
def main():
    folder = Path(sys.argv[1])
    if is_rank():
        with joined_ranks() as ranks:
            folder.joinpath(f"rank{ranks.rank}").write_text(f"{ranks.world} {ranks.sum([ranks.rank + 1.0])}")
            sys.exit(130)  # as one that was told to save
    nodes = spread(2)
    sys.exit(launch(1, sys.argv, {}, nodes, folder))
run_rank(main)
"""


@pytest.fixture
def slurm(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine that has Slurm."""
    folder = tmp_path_factory.mktemp("slurm")
    for name, text in FAKES.items():
        (folder / name).write_text("#!/usr/bin/env bash\n" + text)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    names = {"PATH": path, "SUBMITTED": str(folder / "submitted"), "SLURMD_NODENAME": "localhost"}
    return {**os.environ, **names, "RESIDUALFORMER_PYTHON": sys.executable}


def submitted(slurm: dict[str, str]) -> list[str]:
    path = Path(slurm["SUBMITTED"])
    return path.read_text().splitlines() if path.exists() else []


def launch(recipe: Recipe, slurm: dict[str, str], *options: str) -> subprocess.CompletedProcess:
    recipe.write("calls.txt", "")
    recipe.write("egs/fake/run.sh", 'exec "${0%/*}/../../run.sh" --corpus fake "$@"\n')
    (recipe.folder / "egs/fake/run.sh").chmod(0o755)
    command = [str(recipe.folder / "utils/slurm.sh"), *options, "egs/fake/run.sh", "--experiments", "baseline shared"]
    return subprocess.run(command, cwd="/", env=slurm, capture_output=True, text=True, timeout=120)


@pytest.fixture
def recipe(root, tmp_path) -> Recipe:
    return Recipe(root, tmp_path)


def test_jobs_run_all_stages_one_after_another(recipe, slurm):
    done = launch(recipe, slurm, "--nodes", "2", "--array=2", "--sbatch", "--partition gpu --time 1:00:00")
    assert done.returncode == 0, done.stderr
    decoded = ["baseline", "shared"]
    assert recipe.calls == [*DATA, *decoded, *decoded, *decoded, *decoded, "score.sh"]
    calls = (recipe.folder / "calls.txt").read_text()
    assert calls.count("--nodes 2") == 2 and calls.count("--job 1/2") == calls.count("--job 2/2") == 2
    data, train, decode, score = submitted(slurm)
    assert "--dependency" not in data and "--partition gpu --time 1:00:00" in data
    assert "--dependency afterok:1 " in train and "--nodes 2 --ntasks-per-node 1 utils/slurm_job.sh" in train
    assert "--dependency afterok:2 " in decode and "--array 1-2 " in decode
    assert "--dependency afterok:3 " in score and "--stage 7 --stop-stage 8 --experiments baseline shared" in score
    assert "train: job 2, stages 4 to 6" in done.stdout


def test_only_stages_that_are_asked_for_are_submitted(recipe, slurm):
    done = launch(recipe, slurm, "--dry-run", "--stage", "5", "--stop-stage=7")
    assert done.returncode == 0 and submitted(slurm) == [] and not (recipe.folder / "slurm").exists()
    train, score = done.stdout.splitlines()
    assert "'--stage' '5' '--stop-stage' '6'" in train and "'--stage' '7' '--stop-stage' '7'" in score
    assert "'afterok:<train>'" in score and "'baseline shared'" in score


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nodes", "two"], "--nodes is 'two'; it must be a whole number"),
        (["egs/no/run.sh"], "there is no ./egs/no/run.sh"),
    ],
)
def test_wrong_options_are_refused(root, slurm, options, words):
    done = subprocess.run(["utils/slurm.sh", *options], cwd=root, env=slurm, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (2, f"error: {words}") and submitted(slurm) == []


def test_ranks_on_two_machines_are_one_training(slurm, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    environment = slurm | {"SLURM_JOB_ID": str(os.getpid())}
    done = run_program(tmp_path / "ranks.py", tmp_path, environment=environment)
    assert done.returncode == 130, done.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["2 [3.0]", "2 [3.0]"]
    assert not list(tmp_path.glob(".ranks.*"))


def test_several_machines_need_a_job(tmp_path, monkeypatch):
    command = ["steps/train.py", "--config", "conf/mini/baseline.yaml", "--data", "x", "--nodes", "2"]
    for name in filter(lambda name: name.startswith("SLURM"), list(os.environ)):
        monkeypatch.delenv(name)
    done = run_program(*command, "--exp", tmp_path / "exp")
    assert done.returncode == 2 and "--nodes 2 needs a job of Slurm" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, ["requeue 7"]), (signal.SIGTERM, [])])
def test_a_job_that_must_end_saves_and_is_started_anew_if_its_time_was_over(root, slurm, tmp_path, number, requeued):
    training = "trap 'touch saved; exit 130' TERM; touch started; while true; do sleep 0.1; done"
    command = ["bash", str(root / "utils/slurm_job.sh"), "bash", "-c", training]
    with subprocess.Popen(command, cwd=tmp_path, env=slurm | {"SLURM_JOB_ID": "7"}) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
    assert process.returncode == 130 and (tmp_path / "saved").exists() and submitted(slurm) == requeued
