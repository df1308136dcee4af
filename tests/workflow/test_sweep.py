"""The queue of trainings, on trainings that only leave a trace: order, resuming, failing, interrupting, time left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.programs import run_program

from residualformer.workflow.marker import Marker
from residualformer.workflow.pace import duration
from residualformer.workflow.plan import plan_with_needs
from residualformer.workflow.queue import Job, Queue, gpus, slots
from residualformer.workflow.recipe import Recipe

CONFS = {
    "base": "train: {max_steps: 100}",
    "baseline": "base: base.yaml",
    "shared": "base: base.yaml\nencoder: {sharing: 3}",
    "residual": "base: shared.yaml\nwarm_start: shared\nencoder: {residual: {rank: 4}}",
    "control": "base: shared.yaml\nwarm_start: shared",
}
TABLE = """
title: t
source: s
metric: WER
baseline: baseline
columns: [a, b]
rows: [{name: r, cells: [{experiment: residual, control: control}, {experiment: elsewhere}]}]
"""
# A run.sh that notes what it is asked for, trains for a moment, and leaves what a training leaves.
RUN = r"""
set -e
here=$(cd "$(dirname "$0")" && pwd)
while [ $# -gt 0 ]; do case $1 in
    --experiments) name=$2; shift ;; --stage) stage=$2; shift ;; *) options="$options $1" ;; esac; shift; done
echo "$stage $name${options}" >>"$here/calls.txt"
[ "$stage" -ge 4 ] || exit 0
exp=$here/exp
if [ -f "$exp/.$name.done" ]; then echo "== stage 4: train $name: skipped"; exit 0; fi
mkdir -p "$exp/$name"
cp "$here/config.yaml" "$exp/$name/"
step=$(cat "$exp/$name/step" 2>/dev/null || echo 0)
trap 'echo saved at $step; exit 130' INT
while [ "$step" -lt 100 ]; do
    step=$((step + 50))
    if [ -f "$here/slow" ]; then touch "$exp/$name/started"; sleep 20 & wait $!; fi
    echo "$step" >"$exp/$name/step"
    echo "{\"step\": $step, \"train/wall_s\": $((step * 6))}" >>"$exp/$name/metrics.jsonl"
done
if [ "$name" = "$(cat "$here/fail" 2>/dev/null)" ]; then echo "error: the disk is full"; exit 2; fi
echo "$CUDA_VISIBLE_DEVICES" >"$exp/$name/gpu"
"$RESIDUALFORMER_PYTHON" mark.py fake "$name"
"""
# Leaves the marker of a training, as of a finished one or not, and those of its data.
MARK = """
import sys
from pathlib import Path
from residualformer.workflow.marker import Marker, marker_of
from residualformer.workflow.plan import experiment
from residualformer.workflow.recipe import Recipe
egs, name, *unfinished = sys.argv[1:]
recipe = Recipe(Path("conf/fake"), Path("egs", egs))
for each in ("fbank", "lang"):
    Marker(True, {}).write(marker_of(recipe.data / each))
step = recipe.training(experiment(recipe.conf, name, recipe.all_sets))
step.out.mkdir(parents=True, exist_ok=True)
(step.out / "model.safetensors").touch()
Marker(not unfinished, step.identity(), step.made()).write(step.marker)
"""


class Sweep:
    """A recipe with the fake run.sh, in a folder that has what the queue needs of the repository."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder, self.egs = folder, folder / "egs" / "fake"
        (folder / "utils").symlink_to(root / "utils")
        files = {f"conf/fake/{name}.yaml": text for name, text in CONFS.items()}
        files |= {
            "mark.py": MARK,
            "conf/tables/table9.yaml": TABLE,
            "egs/fake/run.sh": RUN,
            "egs/fake/config.yaml": CONFS["base"],
        }
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        self.environment = {
            "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "", "RESIDUALFORMER_PYTHON": sys.executable
        }  # fmt: skip

    def command(self, *options: str) -> list[str]:
        return ["utils/sweep.py", "--recipe", "fake", *options]

    def run(self, *options: str, status: int = 0) -> str:
        done = run_program(*self.command(*options), cwd=self.folder, environment=self.environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def mark(self, *arguments: str) -> None:
        done = run_program("mark.py", *arguments, cwd=self.folder, environment=self.environment)
        assert done.returncode == 0, done.stderr

    def calls(self) -> list[str]:
        """What run.sh was asked for since the last look."""
        path = self.egs / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def sweep(root, tmp_path):
    return Sweep(root, tmp_path)


def test_a_table_is_trained_in_order_and_then_skipped(sweep):
    told = sweep.run("--table", "9", "--", "--corpus-dir=x")
    assert "not in conf/fake, their cells stay empty: elsewhere" in told
    options = " --corpus-dir=x --stop-stage 7"
    experiments = ["baseline", "shared", "residual", "control"]
    assert sweep.calls() == ["0 baseline" + options.replace("7", "3")] + [f"4 {name}{options}" for name in experiments]
    assert "== summary: 4 trained" in told
    again = sweep.run("--table", "9")
    assert "== summary: 4 was done" in again and "no training is left" in again


def test_a_dry_run_lists_trainings_and_their_time_and_does_nothing(sweep):
    told = sweep.run("--table", "9", "--dry-run")
    assert "residual  100 updates, of unknown length, after shared" in told and sweep.calls() == []
    sweep.run("--experiments", "baseline")  # 6 s an update
    told = sweep.run("--table", "9", "--dry-run")
    assert "baseline  trained already" in told and "shared    100 updates, 10 min" in told
    assert "3 left, 30 min" in told


@pytest.mark.parametrize(("steps", "minutes"), [(50, "5 min"), (200, "20 min")])
def test_what_was_trained_with_other_options_is_listed_again(sweep, steps, minutes):
    """As run.sh does it; fewer updates than the old training made are not done either."""
    sweep.run("--experiments", "shared", "control")
    assert "no training is left" in sweep.run("--experiments", "control", "--dry-run")
    told = sweep.run("--experiments", "control", "--dry-run", "--set", f"train.max_steps={steps}")
    assert f"shared   {steps} updates, {minutes}" in told
    assert f"control  {steps} updates, {minutes}, after shared" in told
    marker = sweep.egs / "exp" / ".shared.done"
    noted = Marker.read(marker)
    noted.identity["train.max_steps"] = 70
    noted.write(marker)
    told = sweep.run("--experiments", "control", "--dry-run")
    assert "shared   100 updates, 10 min" in told and "control  100 updates, 10 min, after shared" in told


def test_a_key_that_the_note_of_a_training_lacks_had_its_default(sweep):
    sweep.run("--experiments", "shared")
    marker = sweep.egs / "exp" / ".shared.done"
    noted = Marker.read(marker)
    noted.identity.pop("train.optimizer.lr")
    noted.write(marker)
    assert "no training is left" in sweep.run("--experiments", "shared", "--dry-run")
    assert "100 updates" in sweep.run("--experiments", "shared", "--dry-run", "--set", "train.optimizer.lr=0.5")


def test_values_chosen_for_the_corpus_are_known(sweep):
    chosen = sweep.egs / "data" / "manifests" / "chosen.yaml"
    chosen.parent.mkdir(parents=True)
    chosen.write_text("train: {max_steps: 70}")
    (sweep.folder / "conf/fake/base.yaml").write_text("train: {max_steps: 30}")
    assert "shared  70 updates" in sweep.run("--experiments", "shared", "--dry-run")


@pytest.mark.parametrize("results", ["egs/other/exp/results.json", "docs/results/other/results.json"])
def test_finished_trainings_of_other_recipes_set_the_pace_of_a_fresh_one(sweep, results):
    row = {"experiment": "shared", "training": {"steps": 100, "wall_s": 300.0}}
    for path, text in {
        "conf/other/shared.yaml": "encoder: {sharing: 3}",
        results: json.dumps({"rows": [row]}),
    }.items():
        (sweep.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (sweep.folder / path).write_text(text)
    assert "shared  100 updates, 5 min" in sweep.run("--experiments", "shared", "--dry-run")


def test_a_failure_stops_only_what_needs_it(sweep):
    (sweep.egs / "fail").write_text("shared")
    told = sweep.run("--table", "9", status=1)
    assert "shared    failed" in told and "error: the disk is full" in told
    assert "residual  not run, 0 s: it needs shared" in told and "== summary: 1 trained, 1 failed, 2 not run" in told
    (sweep.egs / "fail").unlink()
    assert "== summary: 3 trained, 1 was done" in sweep.run("--table", "9")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_lets_trainings_save_and_the_next_call_goes_on(sweep, number):
    (sweep.egs / "slow").touch()
    with subprocess.Popen(
        [sys.executable, *sweep.command("--experiments", "baseline", "shared", "--jobs", "2")],
        cwd=sweep.folder,
        env=os.environ | sweep.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        logs = [sweep.egs / "exp" / "log" / f"{name}.log" for name in ("baseline", "shared")]
        until = time.monotonic() + 60
        while not all((sweep.egs / "exp" / log.stem / "started").exists() for log in logs):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "== summary: 2 waiting" in told
    assert [log.read_text().splitlines()[-1] for log in logs] == ["saved at 50"] * 2
    (sweep.egs / "slow").unlink()
    assert "== summary: 2 trained" in sweep.run("--experiments", "baseline", "shared")


def test_at_the_same_time_each_has_a_gpu_of_its_own(sweep):
    sweep.environment["CUDA_VISIBLE_DEVICES"] = "3,5"
    sweep.run("--experiments", "baseline", "shared")
    taken = [(sweep.egs / "exp" / name / "gpu").read_text().strip() for name in ("baseline", "shared")]
    assert sorted(taken) == ["3", "5"]


def test_a_training_of_several_processes_has_a_gpu_for_each(sweep):
    sweep.environment["CUDA_VISIBLE_DEVICES"] = "3,5"
    sweep.run("--experiments", "baseline", "--nproc", "2")
    assert (sweep.egs / "exp/baseline/gpu").read_text().strip() == "3,5"
    assert sweep.calls() == ["0 baseline --nproc 2 --stop-stage 3", "4 baseline --nproc 2 --stop-stage 7"]


def test_what_is_wrong_is_told_in_a_sentence(sweep):
    assert "there is no recipe 'fake2'" in sweep.run("--recipe", "fake2", status=2)
    assert "there is no table '1'" in sweep.run("--table", "1", status=2)
    assert "has none of the experiments: none was given" in sweep.run(status=2)
    wrong = sweep.run("--experiments", "shared", "--set", "train.max_step=3", status=2)
    assert "there is no key train.max_step" in wrong
    assert sweep.calls() == []


def test_slots(monkeypatch):
    assert slots(0, []) == [({}, None)]
    assert slots(3, ["0", "1"]) == [({"CUDA_VISIBLE_DEVICES": gpu}, None) for gpu in ("0", "1", "0")]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5, 6}, raising=False)
    two = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert slots(2, []) == [(two, {0, 1}), (two, {4, 5})]
    assert [cores for _, cores in slots(7, [])] == [{0}, {1}, {4}, {5}, {6}, {0}, {1}]
    assert [cores for _, cores in slots(2, [], nproc=3)] == [{0, 1, 4}, {5, 6, 0}]
    visible = [environment["CUDA_VISIBLE_DEVICES"] for environment, _ in slots(0, ["a", "b", "c", "d", "e"], nproc=2)]
    assert visible == ["a,b", "c,d"]
    assert slots(0, ["0"], nproc=2) == slots(0, ["0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus() == ["2", "3"]


def test_the_time_left_is_shared_by_what_runs_at_the_same_time(sweep, monkeypatch):
    monkeypatch.chdir(sweep.folder)
    monkeypatch.setenv("PYTHONPATH", sweep.environment["PYTHONPATH"])
    jobs = [Job(each) for each in plan_with_needs(Path("conf/fake"), ["residual", "control"])]
    needed = {job.name: job.experiment.needs for job in jobs}
    assert list(needed.items()) == [("shared", ()), ("residual", ("shared",)), ("control", ("shared",))]
    for folder, steps in (("shared", 100), ("residual", 50)):  # the first is done, of the second half
        (sweep.egs / "exp" / folder).mkdir(parents=True)
        (sweep.egs / "exp" / folder / "config.yaml").write_text(CONFS["base"])
        record = {"step": steps, "train/wall_s": 6.0 * steps}
        (sweep.egs / "exp" / folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        sweep.mark("fake", folder, *(["unfinished"] if folder == "residual" else []))
    queue = Queue(Recipe(Path("conf/fake"), Path("egs/fake")), jobs, [], slots(2, ["0", "1"]))
    assert queue.seconds_left() == pytest.approx({"shared": 0, "residual": 300, "control": 600})
    assert queue.time_left() == "2 left, 10 min"  # the longest, which is more than half of 15
    queue.slots = queue.slots[:1]
    assert queue.time_left() == "2 left, 15 min"
    assert duration(None) == "of unknown length" and duration(5400) == "about 1 h 30 min"
    assert (duration(80), duration(100), duration(3 * 86400)) == ("80 s", "2 min", "about 3 days")


def test_your_own_data_have_results_apart_from_their_recipe(sweep):
    sweep.mark("mine", "baseline")
    told = sweep.run("--experiments", "baseline", "--name", "mine", "--dry-run")
    assert "baseline  trained already" in told
    told = sweep.run("--experiments", "baseline", "--name", "mine", "--", "--corpus-dir=x")
    assert [line.split()[:4] for line in sweep.calls()] == [[stage, "baseline", "--name", "mine"] for stage in "04"]
    assert (sweep.folder / "egs/mine/exp/log/baseline.log").is_file()


def test_a_table_of_another_task_is_refused_before_any_training(sweep):
    told = sweep.run("--table", "9", "--dry-run", "--set", "tokens.target=translation", status=2)
    assert "table9 is about WER, but recipe 'fake' translates; take a table or a recipe of the same task" in told
